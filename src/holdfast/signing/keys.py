"""Keys: ECDSA on P-256, P-384 and P-521, and Ed25519, from PEM. All arithmetic is the ``cryptography`` library's."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from holdfast._files import read_bytes
from holdfast.errors import InvalidConfig, SignatureInvalid, StorageError, UnreadableArtifact, UsageError
from holdfast.signing.envelope import PUBLIC_KEY, Material, pae

PrivateKeyTypes = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
PublicKeyTypes = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey
_CURVES: dict[str, type[ec.EllipticCurve]] = {"p256": ec.SECP256R1, "p384": ec.SECP384R1, "p521": ec.SECP521R1}
_HASHES: dict[str, Callable[[], hashes.HashAlgorithm]] = {
    "secp256r1": hashes.SHA256,
    "secp384r1": hashes.SHA384,
    "secp521r1": hashes.SHA512,
}
_LIMIT = 1 << 16  # bytes of a PEM file


@dataclass(frozen=True, eq=False)
class PublicKey:
    """A key that verifies; equal keys are equal."""

    key: PublicKeyTypes

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PublicKey) and self.pem == other.pem

    def __hash__(self) -> int:
        return hash(self.pem)

    @cached_property
    def pem(self) -> bytes:
        """SubjectPublicKeyInfo as PEM, with LF line ends."""
        info = serialization.PublicFormat.SubjectPublicKeyInfo
        return self.key.public_bytes(serialization.Encoding.PEM, info)

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the PEM text: the key hint of OpenSSF model signatures."""
        return hashlib.sha256(self.pem).hexdigest()

    def verify(self, signature: bytes, message: bytes, *, sha256: bool = False) -> None:
        """Return if ``signature`` is valid for exactly ``message``; raise :class:`SignatureInvalid` otherwise.

        ``sha256`` hashes for ECDSA with SHA-256 on every curve, as only legacy signatures were.
        """
        try:
            if isinstance(self.key, ed25519.Ed25519PublicKey):
                self.key.verify(signature, message)
            else:
                chosen = hashes.SHA256() if sha256 else _hash_for(self.key.curve)
                self.key.verify(signature, message, ec.ECDSA(chosen))
        except InvalidSignature:
            raise SignatureInvalid("the signature does not verify with this key") from None


@dataclass(frozen=True, repr=False)
class KeySigner:
    """A private key in memory; its ``repr`` shows the public fingerprint only."""

    key: PrivateKeyTypes

    def __repr__(self) -> str:
        return f"KeySigner({self.public.fingerprint[:16]})"

    @cached_property
    def public(self) -> PublicKey:
        """The key that verifies."""
        return PublicKey(self.key.public_key())

    def seal(self, payload_type: str, payload: bytes) -> tuple[bytes, Material]:
        """Return a signature over the payload's encoding, and the key's fingerprint as what verifies it."""
        return self.sign(pae(payload_type, payload)), key_material(self.public)

    def sign(self, message: bytes) -> bytes:
        """Return a DER ECDSA or a raw Ed25519 signature."""
        if isinstance(self.key, ed25519.Ed25519PrivateKey):
            return self.key.sign(message)
        return self.key.sign(message, ec.ECDSA(_hash_for(self.key.curve)))


def key_material(key: PublicKey) -> Material:
    """Return the verification material of a bare key: its fingerprint as a hint."""
    return Material(PUBLIC_KEY, {"hint": key.fingerprint})


def _hash_for(curve: ec.EllipticCurve) -> hashes.HashAlgorithm:
    return _HASHES[curve.name]()


def generate_key(kind: str = "p256") -> KeySigner:
    """Make a new key: ``p256``, ``p384``, ``p521`` or ``ed25519``."""
    if kind == "ed25519":
        return KeySigner(ed25519.Ed25519PrivateKey.generate())
    if kind not in _CURVES:
        raise InvalidConfig(f"unknown kind of key {kind!r}", hint=f"choose {', '.join([*_CURVES, 'ed25519'])}")
    return KeySigner(ec.generate_private_key(_CURVES[kind]()))


def write_key(signer: KeySigner, path: Path | str, *, password: bytes | None = None) -> None:
    """Write the private key to a new file that only its owner can read, encrypted when a password is given.

    Raises:
        StorageError: the file exists already, or the disk refuses.
    """
    scheme = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    pem = signer.key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, scheme)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(pem)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}", hint="keys are never overwritten") from error


def parse_private(data: bytes, password: bytes | None, name: str) -> KeySigner:
    """Read a PEM private key.

    Raises:
        UsageError: it is encrypted and no password came, or the wrong one.
        UnreadableArtifact: no PEM private key of a supported kind.
    """
    try:
        key = serialization.load_pem_private_key(data, password)
    except TypeError as error:
        if password is None:
            raise UsageError(f"{name} is encrypted", hint="--password-file FILE, or - to be asked") from error
        raise UsageError(f"{name} is not encrypted and takes no password", hint="leave out --password-file") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        reason = "wrong password, or no PEM private key" if password else "not a PEM private key"
        raise UnreadableArtifact(f"{name}: {reason}") from error
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return KeySigner(key)
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in _HASHES:
        return KeySigner(key)
    raise UnreadableArtifact(f"{name} holds a key of an unsupported kind", hint="use P-256, P-384, P-521 or Ed25519")


def load_public(source: PublicKey | bytes | Path | str) -> PublicKey:
    """Return a public key from itself, PEM bytes or a PEM file.

    Raises:
        UnreadableArtifact: no PEM public key of a supported kind; a private key is refused by name.
    """
    if isinstance(source, PublicKey):
        return source
    data = source if isinstance(source, bytes) else read_bytes(source, "public key", limit=_LIMIT, stream=True)
    name = "the public key" if isinstance(source, bytes) else str(source)
    if b"PRIVATE KEY" in data:
        raise UnreadableArtifact(f"{name} is a private key", hint="trust takes the public one")
    try:
        key = serialization.load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        hint = "for a certificate: certificate:roots=FILE,identity=NAME" if b"CERTIFICATE" in data else ""
        raise UnreadableArtifact(f"{name} is not a PEM public key", hint=hint) from error
    if isinstance(key, ed25519.Ed25519PublicKey):
        return PublicKey(key)
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _HASHES:
        return PublicKey(key)
    raise UnreadableArtifact(f"{name} is of an unsupported kind", hint="use P-256, P-384, P-521 or Ed25519")
