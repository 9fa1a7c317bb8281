"""The laws of an attestation verifier."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime

from holdfast.errors import HoldfastError
from holdfast.shielding.attestation import Claims, Evidence, Policy, verifiers, verify
from holdfast.testing.contract import require


def check_verifier(evidence: Evidence, policy: Policy, *, nonce: bytes, at: datetime) -> None:
    """Check every law of :class:`holdfast.shielding.attestation.Verifier` with evidence that it accepts.

    Args:
        evidence: genuine, of the verifier's kind; all of its body is signed, or is the signature.
        policy: which it meets.
        nonce: which it answers.
        at: a time at which it is good.

    Raises:
        ContractBroken: the first law that does not hold.
    """
    verifier = verifiers.get(evidence.kind)()
    try:
        claims, again = (verify(evidence, policy, nonce=nonce, at=at) for _ in range(2))
    except HoldfastError as error:
        require(False, verifier, f"accepts the good evidence, and not: {error}")
        raise
    require(claims == again, verifier, "says the same about the same evidence")
    require(isinstance(claims, Claims) and claims.kind == evidence.kind, verifier, "claims are of the evidence's kind")
    require(bool(claims.measurements and claims.root), verifier, "names what was measured, and whom that rests on")
    require(claims.to_json()["kind"] == evidence.kind, verifier, "claims have a JSON form")
    for what, changed in _damaged(evidence):
        require(_refused(changed, policy, nonce, at), verifier, f"refuses evidence {what}, with an error of ours")
    require(_refused(evidence, policy, bytes(len(nonce)), at), verifier, "refuses an answer to another nonce")
    unknown = replace(policy, measurements={"no.such.measurement": ("00",)})
    require(_refused(evidence, unknown, nonce, at), verifier, "refuses a demand about what it does not state")


def _refused(evidence: Evidence, policy: Policy, nonce: bytes, at: datetime) -> bool:
    try:
        verify(evidence, policy, nonce=nonce, at=at)
    except HoldfastError:
        return True
    return False


def _damaged(evidence: Evidence) -> Iterator[tuple[str, Evidence]]:
    body = evidence.body
    yield "that is empty", replace(evidence, body=b"")
    yield "with a byte behind it", replace(evidence, body=body + b"\x01")
    for place in range(0, len(body), max(1, len(body) // 24)):
        yield f"cut short at byte {place}", replace(evidence, body=body[:place])
        flipped = body[:place] + bytes((body[place] ^ 1 << place % 8,)) + body[place + 1 :]
        yield f"with a flipped bit in byte {place}", replace(evidence, body=flipped)
    for name in evidence.collateral:
        rest = {other: part for other, part in evidence.collateral.items() if other != name}
        yield f"with an empty {name}", replace(evidence, collateral=rest | {name: b""})
