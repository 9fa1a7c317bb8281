"""Secrets for one TPM in one state, made outside of it (TPM 2.0 Library, Part 1, section 23, duplication).

The secret becomes an object under the TPM's storage key, with a policy over registers: whoever carries it learns
nothing, and the TPM itself opens it only while its registers have the values that were verified before. An object
holds 96 bytes at most, so longer messages are cut, with a digest in front that shows whether they are whole.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Mapping

from cryptography.hazmat.primitives.asymmetric import ec

from holdfast.errors import InvalidConfig
from holdfast.shielding.attestation.enrolment import encrypted, kdf_a, kdf_e, read_endorsement_key
from holdfast.shielding.worlds.vm_tpm import SEALED_LIMIT, block, policy, sealed_public

MAX_MESSAGE = 4096  # bytes
_ADMIN_WITH_POLICY, _NO_DA = 1 << 7, 1 << 10  # and not userWithAuth: only the policy opens it
_SHA256, _KEYEDHASH = b"\x00\x0b", b"\x00\x08"


def wrap(storage_key: bytes, registers: Mapping[int, bytes], secret: bytes) -> dict[str, bytes]:
    """Return ``public``, ``duplicate`` and ``seed``, which only that TPM opens, in that state.

    Args:
        storage_key: TPM2B_PUBLIC of a restricted decryption key on P-256, known to be the TPM's.
        registers: their values in the bank of SHA-256.
        secret: at most 128 bytes.

    Raises:
        InvalidConfig: the secret is too long, or depends on no register.
        UnreadableArtifact, SignerUntrusted: the key is not one that this can be done with.
    """
    if len(secret) > SEALED_LIMIT or not registers:
        raise InvalidConfig(f"a wrapped secret has at most {SEALED_LIMIT} bytes and depends on registers")
    parent, fresh = read_endorsement_key(storage_key), secrets.token_bytes(32)
    unique = hashlib.sha256(fresh + secret).digest()
    public = sealed_public(_ADMIN_WITH_POLICY | _NO_DA, policy(registers), unique)
    name = _SHA256 + hashlib.sha256(public).digest()
    sensitive = block(_KEYEDHASH + block(b"") + block(fresh) + block(secret))
    seed, hidden_seed = _seed(parent)
    hidden = encrypted(kdf_a(seed, b"STORAGE", name, 128), sensitive)
    integrity = hmac.digest(kdf_a(seed, b"INTEGRITY", b"", 256), hidden + name, "sha256")
    return {"public": block(public), "duplicate": block(block(integrity) + hidden), "seed": hidden_seed}


def _seed(parent: ec.EllipticCurvePublicKey) -> tuple[bytes, bytes]:
    """Return a fresh seed, and what the holder of ``parent`` finds it from."""
    one_time = ec.generate_private_key(ec.SECP256R1())
    ours, theirs = one_time.public_key().public_numbers(), parent.public_numbers()
    x, y, far = (value.to_bytes(32, "big") for value in (ours.x, ours.y, theirs.x))
    seed = kdf_e(one_time.exchange(ec.ECDH(), parent), b"DUPLICATE", x, far)
    return seed, block(block(x) + block(y))


def wrap_message(storage_key: bytes, registers: Mapping[int, bytes], message: bytes) -> list[dict[str, str]]:
    """Return a message as objects in base64, which :meth:`Guest.provision` puts together again.

    Raises:
        InvalidConfig: it is longer than 4096 bytes.
    """
    if len(message) > MAX_MESSAGE:
        raise InvalidConfig(
            f"the secrets of a vm world have at most {MAX_MESSAGE} bytes together", hint="give it a key"
        )
    whole = hashlib.sha256(message).digest() + message
    pieces = [whole[start : start + SEALED_LIMIT] for start in range(0, len(whole), SEALED_LIMIT)]
    wrapped = [wrap(storage_key, registers, piece) for piece in pieces]
    return [{name: base64.b64encode(part).decode() for name, part in each.items()} for each in wrapped]
