"""Sealed data: opens only in the same world on the same machine, and only the latest of it.

The data is encrypted with AES-256-GCM under a fresh key; the key is a TPM object bound to the measurement register;
a monotonic counter of the TPM is counted up at each sealing and is part of what is authenticated. Whoever puts back
an older file presents an older number, and is refused.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Mapping
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from holdfast.errors import DigestMismatch, PolicyError, UnreadableArtifact, UnsupportedVersion
from holdfast.evidence import canonical
from holdfast.shielding.attestation.evidence import bytes_of

TYPE = "holdfast.sealed/v1"
MAX_SEALED = 1 << 30  # bytes
_NONCE = 12
_FIELDS = ("body", "nonce", "private", "public")


class Sealer(Protocol):
    """What sealing needs of a TPM."""

    def seal(self, register: int, secret: bytes) -> Mapping[str, bytes]:
        """Return ``secret`` bound to ``register`` as it is."""
        ...

    def unseal(self, register: int, sealed: Mapping[str, bytes]) -> bytes:
        """Return the secret, or raise :class:`PolicyError`."""
        ...

    def count(self, name: str, *, increment: bool) -> int:
        """Return a monotonic counter, counted up first if asked to."""
        ...


def seal(tpm: Sealer, register: int, name: str, data: bytes) -> bytes:
    """Return ``data`` sealed under ``name``; whatever was sealed under that name before opens no longer.

    Whoever loses power between this and storing what it returns has lost both: store it at once.
    """
    key, nonce = secrets.token_bytes(32), secrets.token_bytes(_NONCE)
    bound = tpm.seal(register, key)
    number = tpm.count(name, increment=True)
    body = AESGCM(key).encrypt(nonce, data, _context(name, number))
    parts = {"body": body, "nonce": nonce, "private": bound["private"], "public": bound["public"]}
    encoded = {field: base64.b64encode(value).decode() for field, value in parts.items()}
    return canonical.dumps(encoded | {"counter": number, "name": name, "type": TYPE})


def unseal(tpm: Sealer, register: int, name: str, sealed: bytes) -> bytes:
    """Return what was sealed last under ``name``.

    Raises:
        PolicyError: another world or machine sealed it, or it is not the latest.
        DigestMismatch: it was altered.
        UnreadableArtifact, UnsupportedVersion: it is no sealed data.
    """
    number, parts = _read(sealed, name)
    latest = tpm.count(name, increment=False)
    if number != latest:
        raise PolicyError(
            f"{name!r} was sealed as number {number}, the latest is {latest}: somebody put an old one back"
        )
    key = tpm.unseal(register, parts)
    try:
        return AESGCM(key).decrypt(parts["nonce"], parts["body"], _context(name, number))
    except (InvalidTag, ValueError) as error:
        raise DigestMismatch(f"the sealed {name!r} was altered") from error


def _context(name: str, number: int) -> bytes:
    return canonical.dumps({"counter": number, "name": name, "type": TYPE})


def _read(sealed: bytes, name: str) -> tuple[int, dict[str, bytes]]:
    value = canonical.loads(sealed, what="the sealed data", max_bytes=2 * MAX_SEALED)
    if not isinstance(value, dict) or not isinstance(value.get("type"), str):
        raise UnreadableArtifact("this is no sealed data")
    if value["type"] != TYPE:
        raise UnsupportedVersion(f"the sealed data is of type {value['type']!r}, known is {TYPE!r}")
    number = value.get("counter")
    if value.get("name") != name or not isinstance(number, int) or isinstance(number, bool):
        raise UnreadableArtifact(f"this is not the sealed {name!r}")
    return number, {field: bytes_of(value.get(field), what="sealed data") for field in _FIELDS}
