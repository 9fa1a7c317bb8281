"""The laws of a signer."""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Iterable
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from holdfast.errors import HoldfastError
from holdfast.evidence.statement import PAYLOAD_TYPE, Statement, Subject
from holdfast.signing.envelope import Envelope, Material, Signature, read_envelope, write_envelope
from holdfast.signing.signers.protocol import KeyHolder, Signer
from holdfast.signing.trust import Trust
from holdfast.signing.trusts import KeyTrust, Threshold
from holdfast.testing.contract import ContractBroken, require
from holdfast.testing.trusts import check_trust

_OTHER_TYPE = "application/vnd.example+json"


def check_signer(
    signer: Signer, *, trust: Trust | Threshold | None = None, secrets: Iterable[bytes | str] = ()
) -> None:
    """Check every law of :class:`holdfast.signing.Signer` by signing small statements, about six times.

    Args:
        signer: to be checked.
        trust: what accepts its signatures; trust in its own public key unless given. A signer without a lasting key,
            or with a certificate, needs one.
        secrets: the private key, PIN or token, which must not come out.

    Raises:
        ContractBroken: the first law that does not hold.
    """
    parameters = getattr(type(signer), "__dataclass_params__", None)
    require(parameters is not None and parameters.frozen, signer, "a signer is a frozen dataclass")
    require(hash(signer) == hash(signer), signer, "a signer is hashable")
    accepting = trust or _own_trust(signer)
    first, second = (_sealed(signer, _payload(number)) for number in (1, 2))
    for envelope in (first, second):
        check_trust(accepting, write_envelope(envelope))
    _check_nonces(signer, first, second)
    _check_other_payloads(signer, accepting)
    _check_secrets(signer, [item.encode() if isinstance(item, str) else item for item in secrets])


def _own_trust(signer: Signer) -> Trust:
    if not isinstance(signer, KeyHolder):
        raise ContractBroken(f"{signer}: a signer without a public key is checked with a trust of its own")
    require(signer.public == signer.public, signer, "always has the same public key")
    return KeyTrust(signer.public)


def _payload(number: int) -> bytes:
    subject = Subject("model", {"sha256": f"{number:064x}"})
    return Statement((subject,), "https://example.org/check-signer", {"number": number}).to_bytes()


def _sealed(signer: Signer, payload: bytes, payload_type: str = PAYLOAD_TYPE) -> Envelope:
    sealed: Any = signer.seal(payload_type, payload)
    whole = isinstance(sealed, tuple) and len(sealed) == 2
    require(whole and isinstance(sealed[1], Material), signer, "seals a payload with a signature and its material")
    require(isinstance(sealed[0], bytes) and bool(sealed[0]), signer, "a signature is bytes, and not none")
    envelope = Envelope(payload, payload_type, (Signature(sealed[0]),), sealed[1])
    survives = read_envelope(write_envelope(envelope)) == envelope
    require(survives, signer, "its material survives being written and read")
    return envelope


def _check_nonces(signer: Signer, first: Envelope, second: Envelope) -> None:
    """ECDSA with one nonce for two messages gives away the private key."""
    if not isinstance(signer, KeyHolder) or not isinstance(signer.public.key, ec.EllipticCurvePublicKey):
        return
    one, other = (decode_dss_signature(item.signatures[0].value)[0] for item in (first, second))
    require(one != other, signer, "two signatures never share a nonce")


def _check_other_payloads(signer: Signer, accepting: Trust | Threshold) -> None:
    """Check that any type and any bytes are signed as they are, or refused with an error of ours."""
    judge = accepting if isinstance(accepting, Threshold) else Threshold((accepting,))
    for payload_type, payload in ((_OTHER_TYPE, _payload(3)), (PAYLOAD_TYPE, b""), (PAYLOAD_TYPE, b"\0" * 65_537)):
        try:
            envelope = _sealed(signer, payload, payload_type)
        except HoldfastError:
            continue
        try:
            if isinstance(signer, KeyHolder):  # a trust may be about statements alone; the signature holds without
                envelope.check(0, signer.public)
            else:
                judge.judge(envelope)
        except HoldfastError as error:
            require(False, signer, f"signs the type and the bytes it was given, or refuses: {error}")


def _check_secrets(signer: Signer, secrets: list[bytes]) -> None:
    try:
        kept = pickle.dumps(signer)
    except Exception:  # noqa: BLE001  whatever it raises, nothing came out
        kept = b""
    try:
        signer.seal(PAYLOAD_TYPE, None)  # type: ignore[arg-type]
    except Exception as error:  # noqa: BLE001  what it says is the question
        inside = error.__traceback__.tb_next if error.__traceback__ else None  # not here, where the secrets are known
        told = "".join(traceback.TracebackException(type(error), error, inside, capture_locals=True).format())
    else:
        told = ""
        require(False, signer, "signs bytes only")
    shown = {"repr": repr(signer), "str": str(signer), "format": f"{signer}", "traceback": told}
    places = {name: value.encode("utf-8", "replace") for name, value in shown.items()} | {"pickle": kept}
    for secret in secrets:
        for name, value in places.items():
            spelled = (secret, secret.hex().encode(), repr(secret).encode())
            require(not any(item in value for item in spelled), type(signer).__name__, f"its {name} shows no secret")
