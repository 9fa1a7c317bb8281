"""Trust less what a revocation list takes away."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from holdfast.errors import SignerUntrusted
from holdfast.signing.envelope import CERTIFICATE, CHAIN, Envelope
from holdfast.signing.revocation import Revocation, RevocationList
from holdfast.signing.times import write_time
from holdfast.signing.trust import Identity, Trust
from holdfast.signing.x509.certificates import certificate_name, read_chain, read_entry


@dataclass(frozen=True)
class Unrevoked:
    """Accepts what ``trust`` accepts, unless ``revocations`` names the key, a certificate, or what was signed.

    ``at`` is when that is asked; None means now.
    """

    trust: Trust
    revocations: RevocationList
    at: datetime | None = None

    def claims(self, envelope: Envelope, index: int) -> bool:
        """Return what the inner trust says."""
        return self.trust.claims(envelope, index)

    def accept(self, envelope: Envelope, index: int) -> Identity:
        """Return who signed, or raise :class:`SignerUntrusted` naming the entry that stands against it."""
        identity = self.trust.accept(envelope, index)
        names = [("key", identity.fingerprint)]
        names += [("certificate", name) for name in identity.path]  # those that the verifier brought along, too
        if index == 0:  # the certificates of a bundle speak for its first signature
            names += [("certificate", name) for name in certificate_names(envelope)]
        for kind, name in names:
            entry = self.revocations.against(kind, name, signed=identity.time, at=self.at)
            if entry is not None:
                raise SignerUntrusted(explain(entry), hint="sign again with a key that is not revoked")
        return identity


def explain(entry: Revocation) -> str:
    """Return the sentence that refuses what ``entry`` names."""
    return f"the {entry.kind} {entry.id[:16]} is revoked ({entry.reason}) from {write_time(entry.effective)} on"


def certificate_names(envelope: Envelope) -> Iterator[str]:
    """Yield the names of all certificates that came with the first signature; none for a bare key."""
    material = envelope.material
    if material.kind == CERTIFICATE:
        yield certificate_name(read_entry(material.value))
    elif material.kind == CHAIN:
        yield from map(certificate_name, read_chain(material))
