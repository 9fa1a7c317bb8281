"""Whom to believe: what accepts a signature, and who that shows to have signed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, runtime_checkable

from holdfast.signing.envelope import Envelope


@dataclass(frozen=True, slots=True)
class Identity:
    """Who made one signature, as far as the trust that accepted it established.

    Attributes:
        kind: ``key``, ``certificate`` or ``sigstore``.
        name: the key's fingerprint, or the name in the certificate that the trust demanded.
        fingerprint: SHA-256 (hex) of the public key's PEM.
        issuer: who vouches for the name; empty for a bare key.
        time: when it was signed, if a timestamp or a log proves that.
        path: the certificates that vouch for the name, from the signer's to the root, as revocation lists name them.
    """

    kind: str
    name: str
    fingerprint: str
    issuer: str = ""
    time: datetime | None = None
    path: tuple[str, ...] = ()


@runtime_checkable
class Trust(Protocol):
    """Something that accepts signatures; frozen, and hashable, so that it counts once towards a threshold."""

    def claims(self, envelope: Envelope, index: int) -> bool:
        """Return whether signature ``index`` says to be one of this trust's; decides nothing else."""
        ...

    def accept(self, envelope: Envelope, index: int) -> Identity:
        """Return who made signature ``index`` of ``envelope``.

        Raises:
            SignatureInvalid: it does not verify over the exact payload.
            SignerUntrusted: it does, or might, and its maker is not the one this trust accepts.
        """
        ...
