"""Trust that also wants to know when: another trust, plus a timestamp by an authority under chosen roots."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509

from holdfast.errors import InvalidConfig, SignatureInvalid
from holdfast.signing.envelope import Envelope
from holdfast.signing.timestamps import signing_time
from holdfast.signing.trust import Identity, Trust


@dataclass(frozen=True, kw_only=True)
class TimestampedTrust:
    """Accepts what ``trust`` accepts, if a timestamp says when it was signed.

    Attributes:
        trust: who must have signed.
        tsa_roots: roots of timestamp authorities.
        at: the time of the verification; now, if None.
    """

    trust: Trust
    tsa_roots: tuple[x509.Certificate, ...]
    at: datetime | None = None

    def __post_init__(self) -> None:
        if not self.tsa_roots:
            raise InvalidConfig("trust in timestamps needs their roots", hint="tsa-roots=tsa.pem")
        if self.at is not None and self.at.tzinfo is None:
            raise InvalidConfig("the time of a verification needs a zone", hint="at=2026-01-31T12:00:00Z")

    def claims(self, envelope: Envelope, index: int) -> bool:
        """Return whether signature ``index`` says to be one of the inner trust's."""
        return self.trust.claims(envelope, index)

    def accept(self, envelope: Envelope, index: int) -> Identity:
        """Return who signed and when.

        Raises:
            SignatureInvalid: the signature does not verify, or there is no timestamp of it.
            SignerUntrusted: somebody else signed, or the authority is not one that was chosen.
        """
        identity = self.trust.accept(envelope, index)
        if not envelope.material.timestamps:
            raise SignatureInvalid("the bundle has no timestamp", hint="sign with --timestamp URL")
        time = signing_time(envelope, index, self.tsa_roots, now=self.at or datetime.now(UTC))
        return dataclasses.replace(identity, time=time)
