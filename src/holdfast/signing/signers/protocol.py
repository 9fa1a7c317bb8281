"""What a signer does. Where its private key lives is its own business."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from holdfast.signing.envelope import Material
from holdfast.signing.keys import PublicKey


class Signer(Protocol):
    """Seals payloads: a signature, and what a verifier needs to check it."""

    def seal(self, payload_type: str, payload: bytes) -> tuple[bytes, Material]:
        """Return a signature over the DSSE encoding of ``payload`` and the verification material that goes with it."""
        ...


@runtime_checkable
class KeyHolder(Signer, Protocol):
    """A signer with a lasting key, which can stand beside others in one envelope."""

    @property
    def public(self) -> PublicKey:
        """The key that verifies."""
        ...
