"""Sealing bytes: AES-256-GCM under a key that never shows in a log, an argument or a repr.

No key is used as it is given: :func:`subkey` derives another one for each purpose (HKDF, RFC 5869). AES in counter
mode and AES-GCM under *one* key undo each other: keystream block 0 of counter 0 is GCM's authentication key.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from holdfast.errors import IntegrityError, InvalidConfig, UnreadableArtifact
from holdfast.evidence import canonical
from holdfast.seeds import Entropy

KEY_BYTES = 32
_NONCE_BYTES = 12
_TAG_BYTES = 16
_MOST_SECRET = 2**16
_MAGIC = b"HFSL\x01"


def sealed_size(size: int) -> int:
    """Return how many bytes ``size`` bytes take when they are sealed."""
    return len(_MAGIC) + _NONCE_BYTES + size + _TAG_BYTES


def subkey(key: bytes, *purpose: str) -> bytes:
    """Return 32 bytes for one ``purpose``, which tell nothing about ``key`` nor about those for another purpose.

    Raises:
        InvalidConfig: a key of another length than 32 bytes.
    """
    if len(key) != KEY_BYTES:
        raise InvalidConfig(f"a key has {KEY_BYTES} bytes, not {len(key)}")
    label = canonical.dumps(["holdfast.subkey/v1", *purpose])
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=label).derive(key)


class Sealer:
    """Encrypts and authenticates byte strings under a subkey of one key, each bound to what it is.

    Args:
        key: 32 secret bytes; may serve counters and masks as well.

    Raises:
        InvalidConfig: another length.
    """

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(subkey(key, "sealed file"))

    def seal(self, plain: bytes, what: bytes) -> bytes:
        """Return ``plain`` sealed; it opens only as the same ``what``. A fresh nonce is drawn each time."""
        nonce = Entropy().bytes(_NONCE_BYTES)
        return _MAGIC + nonce + self._cipher.encrypt(nonce, plain, _MAGIC + what)

    def open(self, sealed: bytes, what: bytes, *, name: str) -> bytes:
        """Return what was sealed as ``what``; ``name`` is for the message.

        Raises:
            IntegrityError: changed, cut, sealed under another key, or sealed as something else.
        """
        nonce, body = sealed[len(_MAGIC) : len(_MAGIC) + _NONCE_BYTES], sealed[len(_MAGIC) + _NONCE_BYTES :]
        try:
            if sealed[: len(_MAGIC)] != _MAGIC or len(nonce) != _NONCE_BYTES:
                raise InvalidTag
            return self._cipher.decrypt(nonce, body, _MAGIC + what)
        except InvalidTag as error:
            raise IntegrityError(
                f"{name} does not open: changed, moved from elsewhere, or sealed under another key",
                hint="restore it from its source; a sealed file is never repaired",
            ) from error

    def __repr__(self) -> str:
        return "Sealer(key=...)"


def read_key(path: Path | str) -> bytes:
    """Read a 32-byte key from a file that only its owner may read.

    Raises:
        UnreadableArtifact: no such file, or another length.
        InvalidConfig: others may read it.
    """
    key = read_private(path)
    if len(key) != KEY_BYTES:
        raise UnreadableArtifact(f"the key {path} has {len(key)} bytes, not {KEY_BYTES}")
    return key


def read_private(path: Path | str) -> bytes:
    """Read a secret from a file that only its owner may read.

    Raises:
        UnreadableArtifact: no such file, or far too long for a secret.
        InvalidConfig: others may read it.
    """
    path = Path(path)
    try:
        with path.open("rb") as handle:
            mode, secret = os.fstat(handle.fileno()).st_mode, handle.read(_MOST_SECRET + 1)
    except OSError as error:
        raise UnreadableArtifact(f"cannot read the key {path}: {error.strerror or error}") from error
    if stat.S_IMODE(mode) & 0o077:
        raise InvalidConfig(f"others than its owner may read the key {path}", hint=f"chmod 600 {path}")
    if len(secret) > _MOST_SECRET:
        raise UnreadableArtifact(f"{path} is too long for a key")
    return secret
