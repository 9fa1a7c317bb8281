"""The laws of a trust."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace

from holdfast.errors import HoldfastError
from holdfast.signing.envelope import Envelope, Signature, read_envelope
from holdfast.signing.keys import generate_key
from holdfast.signing.trust import Identity, Trust
from holdfast.signing.trusts import Threshold
from holdfast.testing.contract import require

_FINGERPRINT = re.compile(r"[0-9a-f]{64}")


def check_trust(trust: Trust | Threshold, good_bundle: bytes) -> None:
    """Check every law of :class:`holdfast.signing.Trust` with a bundle that it accepts, and dozens that it must not.

    Args:
        trust: to be checked; or a threshold of several.
        good_bundle: signed by whom it trusts.

    Raises:
        ContractBroken: the first law that does not hold.
    """
    parameters = getattr(type(trust), "__dataclass_params__", None)
    require(parameters is not None and parameters.frozen, trust, "a trust is a frozen dataclass")
    require(hash(trust) == hash(trust) and trust == trust, trust, "counts once: it is hashable and equals itself")
    judge = trust if isinstance(trust, Threshold) else Threshold((trust,))
    envelope = read_envelope(good_bundle)
    _check_acceptance(trust, judge, envelope)
    if not isinstance(trust, Threshold):
        _check_claims(trust, envelope)
    for what, changed in _forgeries(envelope):
        _check_refused(trust, judge, changed, what)


def _check_acceptance(trust: Trust | Threshold, judge: Threshold, envelope: Envelope) -> None:
    try:
        found, again = judge.judge(envelope), judge.judge(envelope)
    except HoldfastError as error:
        require(False, trust, f"accepts the good bundle, and not: {error}")
        raise
    require(found == again, trust, "gives the same answer about the same bundle")
    for item in found:
        sound = isinstance(item, Identity) and bool(item.kind) and bool(item.name)
        require(sound, trust, "says of what kind the signer is, and who")
        require(_FINGERPRINT.fullmatch(item.fingerprint) is not None, trust, "names the key by 64 hex digits")


def _check_claims(trust: Trust, envelope: Envelope) -> None:
    """Check that claims decide nothing: they depend on what a signature says of itself and on nothing it proves."""
    places = range(len(envelope.signatures))
    claims = [trust.claims(envelope, place) for place in places]
    require(all(isinstance(item, bool) for item in claims) and any(claims), trust, "claims a signature of the bundle")
    bad = replace(envelope, payload=b"{}", signatures=tuple(replace(s, value=b"") for s in envelope.signatures))
    require([trust.claims(bad, place) for place in places] == claims, trust, "claims without looking at the proof")


def _forgeries(envelope: Envelope) -> Iterator[tuple[str, Envelope]]:
    """Yield envelopes that nobody signed, each with what was done to it."""
    payload = envelope.payload
    flipped = bytes([payload[0] ^ 1]) + payload[1:]
    for what, other in (("changed", flipped), ("longer", payload + b" "), ("cut", payload[:-1]), ("empty", b"")):
        yield f"a payload that is {what}", replace(envelope, payload=other)
    yield "another type", replace(envelope, payload_type=f"{envelope.payload_type} ")
    yield "an empty type", replace(envelope, payload_type="")
    for what, change in _CHANGES.items():
        signatures = tuple(replace(item, value=change(item.value)) for item in envelope.signatures)
        yield f"a signature that is {what}", replace(envelope, signatures=signatures)
    yield "no signature", replace(envelope, signatures=())
    stranger = generate_key("ed25519")
    value, material = stranger.seal(envelope.payload_type, payload)
    yield "the signature of a stranger", replace(envelope, signatures=(Signature(value),), material=material)
    names = [item.keyid for item in envelope.signatures]
    signatures = tuple(Signature(value, name) for name in names)
    yield "a stranger's signature under the right name", replace(envelope, signatures=signatures)


_CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda value: b"",
    "cut": lambda value: value[:-1],
    "half": lambda value: value[: len(value) // 2],
    "longer": lambda value: value + b"\0",
    "all zeros": lambda value: bytes(len(value)),
    "changed at its end": lambda value: value[:-1] + bytes([value[-1] ^ 1]),
    "changed in the middle": lambda value: _flipped(value, len(value) // 2),
    "repeated": lambda value: value + value,
}


def _flipped(value: bytes, place: int) -> bytes:
    return value[:place] + bytes([value[place] ^ 128]) + value[place + 1 :]


def _check_refused(trust: Trust | Threshold, judge: Threshold, changed: Envelope, what: str) -> None:
    try:
        judge.judge(changed)
    except HoldfastError:
        return
    except Exception as error:  # noqa: BLE001  any other kind is the news
        require(False, trust, f"refuses {what} with an error of holdfast.errors, not with {error!r}")
    require(False, trust, f"refuses {what}")
