"""A private key in a PEM file."""

from __future__ import annotations

from holdfast._files import read_bytes
from holdfast.signing.keys import KeySigner, parse_private


def file_signer(path: str, *, password: bytes | None = None) -> KeySigner:
    """Read an ECDSA or Ed25519 key; ``password`` decrypts it and never comes from the command line."""
    return parse_private(read_bytes(path, "private key", limit=1 << 16, stream=True), password, path)
