"""Trust in several signers at once: at least so many of these must have signed."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.errors import HoldfastError, InvalidConfig, SignerUntrusted, UnsupportedVersion, VerificationError
from holdfast.signing.envelope import Envelope
from holdfast.signing.trust import Identity, Trust


@dataclass(frozen=True)
class Threshold:
    """At least ``needed`` different ``members`` must have signed (N-of-M).

    Raises:
        InvalidConfig: no members, one of them twice, or more needed than there are.
    """

    members: tuple[Trust, ...]
    needed: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.needed <= len(self.members):
            raise InvalidConfig(
                f"{self.needed} of {len(self.members)} signers can never sign",
                hint="trust more, or lower the threshold",
            )
        if len(set(self.members)) != len(self.members):
            raise InvalidConfig("a signer is named twice and would count once", hint="name each signer once")

    def judge(self, envelope: Envelope) -> tuple[Identity, ...]:
        """Return who signed, each member once and each key once, under however many names it is trusted.

        A signature that claims a member's name, or no name, must hold; one that names a stranger proves nothing and
        counts for nothing.

        Raises:
            SignatureInvalid: a signature that claims to be a member's does not verify.
            SignerUntrusted: too few members signed; the message says how many, and who else claims to have.
        """
        accepted: dict[int, Identity] = {}
        for index in range(len(envelope.signatures)):
            self._judge_one(envelope, index, accepted)
        keys = {identity.fingerprint for identity in accepted.values()}  # one key may be two members' of unlike kinds
        if len(keys) < self.needed:
            raise SignerUntrusted(
                _shortfall(envelope, len(keys), self.needed),
                hint="is --trust the signer's? keys are named here by the fingerprint that keygen prints",
            )
        return tuple(accepted.values())

    def _judge_one(self, envelope: Envelope, index: int, accepted: dict[int, Identity]) -> None:
        claimed = [place for place, member in enumerate(self.members) if member.claims(envelope, index)]
        if not claimed and envelope.named(index):
            return  # a stranger's: whoever trusts that name may check it
        refusals: list[HoldfastError] = []
        for place in claimed or range(len(self.members)):  # several may share a claim, as all keys do without a hint
            try:
                identity = self.members[place].accept(envelope, index)
            except (VerificationError, UnsupportedVersion) as error:
                refusals.append(error)
            else:
                if all(item.fingerprint != identity.fingerprint for item in accepted.values()):
                    accepted.setdefault(place, identity)
                return
        raise refusals[0]


def _shortfall(envelope: Envelope, count: int, needed: int) -> str:
    names = [envelope.named(index)[:20] or "no name" for index in range(len(envelope.signatures))]
    return f"{count} of {needed} trusted signers signed; the bundle is signed by {', '.join(names)}"
