"""Trust in one public key."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.errors import SignerUntrusted
from holdfast.signing.envelope import PUBLIC_KEY, Envelope, from_base64
from holdfast.signing.keys import PublicKey
from holdfast.signing.trust import Identity


@dataclass(frozen=True)
class KeyTrust:
    """Accepts what ``key`` signed."""

    key: PublicKey

    def claims(self, envelope: Envelope, index: int) -> bool:
        """Return whether the signature names this key, or is unnamed in a bundle that names no other."""
        name = envelope.named(index)
        unnamed_key = not name and (index > 0 or envelope.material.kind == PUBLIC_KEY)
        return unnamed_key or name == self.key.fingerprint

    def accept(self, envelope: Envelope, index: int) -> Identity:
        """Return the key's identity if it made the signature."""
        if not self.claims(envelope, index):
            raise SignerUntrusted(f"signed by {envelope.named(index)[:20]}, trusted is {self.key.fingerprint[:20]}")
        self._require_same_key(envelope, index)
        envelope.check(index, self.key)
        return Identity("key", self.key.fingerprint, self.key.fingerprint)

    def _require_same_key(self, envelope: Envelope, index: int) -> None:
        """Refuse bundles whose material is about the key of somebody else: its hint, or in older ones all of it."""
        value = envelope.material.value
        if (
            index == 0
            and envelope.material.kind == PUBLIC_KEY
            and value.get("hint") not in (None, "", self.key.fingerprint)
        ):
            raise SignerUntrusted("the bundle names another public key than the trusted one")
        if index == 0 and "rawBytes" in value and from_base64(value["rawBytes"], "public key") != self.key.pem:
            raise SignerUntrusted("the bundle carries another public key than the trusted one")
