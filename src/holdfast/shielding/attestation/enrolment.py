"""Enrolment of a TPM: proof that an attestation key lives in the same TPM as a known endorsement key.

A TPM's maker certifies its endorsement key, which decrypts and cannot sign; quotes are signed by another key. The
verifier encrypts a random secret to the endorsement key in a way that a TPM gives it out only if it holds the named
attestation key as well (TPM2_MakeCredential and TPM2_ActivateCredential; TPM 2.0 Library, Part 1, section 24 and
annex C). Whoever returns the secret has shown it, and the key's name may then stand in :attr:`Policy.keys`.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import datetime

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

try:  # where newer releases keep modes of the past, which a TPM still speaks
    from cryptography.hazmat.decrepit.ciphers.modes import CFB
except ImportError:
    from cryptography.hazmat.primitives.ciphers.modes import CFB

from holdfast.errors import InvalidConfig, PolicyError, SignerUntrusted, UnreadableArtifact
from holdfast.shielding.attestation import chains
from holdfast.shielding.attestation.cursor import Cursor
from holdfast.shielding.attestation.policy import Policy
from holdfast.shielding.attestation.tpm_structures import read_key

_SHA256, _ECC, _AES, _CFB, _NULL, _P256 = 0x000B, 0x0023, 0x0006, 0x0043, 0x0010, 0x0003
_NEEDED = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 16 | 1 << 17  # fixedTPM fixedParent sensitiveDataOrigin restricted decrypt
_SIGN = 1 << 18
_SECRET = 32  # bytes
_FIELD = 512


@dataclass(frozen=True, slots=True)
class Challenge:
    """What the verifier keeps (``secret``) and what it sends: TPM2B_ID_OBJECT and TPM2B_ENCRYPTED_SECRET."""

    secret: bytes
    credential: bytes
    encrypted: bytes
    key_name: str

    def accept(self, answer: bytes) -> str:
        """Return the enrolled key's name; raise :class:`PolicyError` unless ``answer`` is the secret."""
        if not hmac.compare_digest(answer, self.secret):
            raise PolicyError("the TPM does not hold both keys: it did not find the secret")
        return self.key_name


def challenge(endorsement_key: bytes, attestation_key: bytes) -> Challenge:
    """Return a challenge that only the TPM that holds both keys can answer.

    Args:
        endorsement_key: TPM2B_PUBLIC of the endorsement key on P-256, as the default template makes it.
        attestation_key: TPM2B_PUBLIC of the key that signs quotes.

    Raises:
        UnreadableArtifact: one of them is malformed or of an unknown kind.
        SignerUntrusted: one of them could be used in a way that proves nothing.
    """
    public = read_endorsement_key(endorsement_key)
    name = read_key(attestation_key).name
    secret, one_time = secrets.token_bytes(_SECRET), ec.generate_private_key(ec.SECP256R1())
    point = one_time.public_key().public_numbers()
    shared = one_time.exchange(ec.ECDH(), public)
    seed = kdf_e(shared, b"IDENTITY", _coordinate(point.x), _coordinate(public.public_numbers().x))
    bound = bytes.fromhex(name)
    identity = encrypted(kdf_a(seed, b"STORAGE", bound, 128), _block(secret))
    integrity = hmac.digest(kdf_a(seed, b"INTEGRITY", b"", 256), identity + bound, "sha256")
    hidden_seed = _block(_block(_coordinate(point.x)) + _block(_coordinate(point.y)))
    return Challenge(secret, _block(_block(integrity) + identity), hidden_seed, name)


def read_endorsement_key(data: bytes) -> ec.EllipticCurvePublicKey:
    """Return the point of a TPM2B_PUBLIC of a restricted decryption key on P-256 with AES-128.

    Raises:
        UnreadableArtifact, SignerUntrusted: as :func:`challenge` does.
    """
    outer = Cursor(data, "endorsement key", "big")
    cursor = Cursor(outer.block(2, limit=_FIELD), "endorsement key", "big")
    outer.end()
    kind, hash, attributes = cursor.number(2), cursor.number(2), cursor.number(4)
    if attributes & (_NEEDED | _SIGN) != _NEEDED:
        raise SignerUntrusted("the endorsement key is not one that stays in its TPM and only decrypts")
    cursor.block(2, limit=64)
    layout = [cursor.number(2) for _ in range(6)]
    if (kind, hash, *layout) != (_ECC, _SHA256, _AES, 128, _CFB, _NULL, _P256, _NULL):
        raise UnreadableArtifact("the endorsement key is not of the default template on P-256")
    x, y = (int.from_bytes(cursor.block(2, limit=64), "big") for _ in range(2))
    cursor.end()
    try:
        return ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
    except ValueError as error:
        raise UnreadableArtifact("the endorsement key is no point of P-256") from error


def require_endorsed(endorsement_key: bytes, chain: bytes, roots: tuple[bytes, ...], at: datetime) -> str:
    """Return the digest of the root that vouches for an endorsement key.

    Args:
        endorsement_key: TPM2B_PUBLIC.
        chain: PEM, from the endorsement certificate to a root.
        roots: PEM certificates of TPM makers that are trusted.
        at: the time the chain must be valid for.

    Raises:
        SignerUntrusted, SignatureInvalid: nobody trusted vouches for this key.
        InvalidConfig: no roots.
    """
    if not roots:
        raise InvalidConfig("name the TPM makers' roots to trust")
    public = read_endorsement_key(endorsement_key)
    found = chains.from_pem(chain, "chain of the endorsement key")
    policy = Policy(kind="tpm2", any_code=True, roots=roots)
    root = chains.require_chain(found, chains.trusted(policy, ()), at)
    form = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    if found[0].public_key().public_bytes(*form) != public.public_bytes(*form):
        raise SignerUntrusted("the certificate is for another endorsement key")
    return root


def encrypted(key: bytes, data: bytes) -> bytes:
    """Return ``data`` under AES-128-CFB with a zero vector, as a TPM protects what it is sent under a key used once."""
    cipher = Cipher(algorithms.AES(key), CFB(bytes(16))).encryptor()
    return cipher.update(data) + cipher.finalize()


def kdf_a(key: bytes, label: bytes, context: bytes, bits: int) -> bytes:
    """KDFa (Part 1, 11.4.10.2) for at most 256 bits: one round of HMAC-SHA-256."""
    message = (1).to_bytes(4, "big") + label + b"\0" + context + bits.to_bytes(4, "big")
    return hmac.digest(key, message, "sha256")[: bits // 8]


def kdf_e(shared: bytes, label: bytes, ours: bytes, theirs: bytes) -> bytes:
    """KDFe (Part 1, 11.4.10.3) for 256 bits: one round of SHA-256."""
    return hashlib.sha256((1).to_bytes(4, "big") + shared + label + b"\0" + ours + theirs).digest()


def _coordinate(value: int) -> bytes:
    return value.to_bytes(32, "big")


def _block(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data
