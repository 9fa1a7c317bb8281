"""Keys of transparency logs: what they verify, and what they are called."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from holdfast.errors import SignatureInvalid, UnreadableArtifact

_CURVES = {
    "PKIX_ECDSA_P256_SHA_256": ("secp256r1", hashes.SHA256()),
    "PKIX_ECDSA_P384_SHA_384": ("secp384r1", hashes.SHA384()),
    "PKIX_ECDSA_P521_SHA_512": ("secp521r1", hashes.SHA512()),
}
_RSA = {
    "PKCS1_RSA_PKCS1V5": 2048,  # the enumeration's own spelling
    "PKIX_RSA_PKCS1V15_2048_SHA256": 2048,
    "PKIX_RSA_PKCS1V15_3072_SHA256": 3072,
    "PKIX_RSA_PKCS1V15_4096_SHA256": 4096,
}


@dataclass(frozen=True, slots=True)
class LogKey:
    """A public key as a trusted root writes it: DER, and the algorithm it is for (protobuf ``PublicKeyDetails``)."""

    der: bytes
    details: str

    def __post_init__(self) -> None:
        self._load()

    def verify(self, signature: bytes, message: bytes) -> None:
        """Return if ``signature`` is this key's over exactly ``message``; raise :class:`SignatureInvalid` otherwise."""
        key = self._load()
        try:
            if isinstance(key, ec.EllipticCurvePublicKey):
                key.verify(signature, message, ec.ECDSA(_CURVES[self.details][1]))
            elif isinstance(key, rsa.RSAPublicKey):
                key.verify(signature, message, padding.PKCS1v15(), hashes.SHA256())
            else:
                key.verify(signature, message)
        except InvalidSignature:
            raise SignatureInvalid("the log's signature does not verify with its key") from None

    def names(self, origin: str) -> tuple[bytes, ...]:
        """Return the log ids this key may have: SHA-256 of its DER, or for Ed25519 also the C2SP note key id."""
        key = self._load()
        encoding, info = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        ids = (hashlib.sha256(key.public_bytes(encoding, info)).digest(),)  # RSA keys come in PKCS #1
        if not isinstance(key, ed25519.Ed25519PublicKey):
            return ids
        named = origin.encode() + b"\n\x01" + key.public_bytes_raw()
        return (*ids, hashlib.sha256(named).digest())

    def _load(self) -> ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey:
        try:
            key = serialization.load_der_public_key(self.der)
        except (ValueError, UnsupportedAlgorithm) as error:
            raise UnreadableArtifact("a log's key is no DER public key") from error
        if not _fits(key, self.details):
            raise UnreadableArtifact(f"a log's key is not of the declared kind {self.details!r}")
        if not isinstance(key, ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey):
            raise UnreadableArtifact(f"a log's key is of the unsupported kind {type(key).__name__}")
        return key


def _fits(key: Any, details: str) -> bool:
    if isinstance(key, ec.EllipticCurvePublicKey):
        return details in _CURVES and key.curve.name == _CURVES[details][0]
    if isinstance(key, rsa.RSAPublicKey):
        return details in _RSA and key.key_size >= _RSA[details]
    return isinstance(key, ed25519.Ed25519PublicKey) and details == "PKIX_ED25519"
