"""Bundles that sign one file as it is (``messageSignature``), as ``sigstore sign`` and ``cosign sign-blob`` write them.

Bundles of media types 0.1 to 0.3 are read; whatever their age, every element of the proof is demanded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from holdfast._files import read_bytes
from holdfast.errors import DigestMismatch, SignatureInvalid, SignerUntrusted, UnreadableArtifact, UnsupportedVersion
from holdfast.evidence import canonical
from holdfast.signing.envelope import CERTIFICATE, CHAIN, Material, read_material
from holdfast.signing.sigstore import strict
from holdfast.signing.sigstore.body import Message
from holdfast.signing.sigstore.trusted_root import TrustedRoot
from holdfast.signing.sigstore.verify import Evidence, Signing, gather, verify_signing

_STEM = "application/vnd.dev.sigstore.bundle"
MEDIA_TYPES = (
    f"{_STEM}+json;version=0.1",
    f"{_STEM}+json;version=0.2",
    f"{_STEM}+json;version=0.3",
    f"{_STEM}.v0.3+json",
)


def verify_file_signing(bundle: bytes, path: Path | str, root: TrustedRoot) -> Signing:
    """Return who signed the file at ``path``, and when; whom to believe is the caller's to judge.

    Raises:
        DigestMismatch: the bundle is about another file.
        SignatureInvalid, SignerUntrusted, RecordMissing: as :func:`verify_signing` does.
        UnreadableArtifact: malformed.
        UnsupportedVersion: an unknown media type, or a bundle that holds no signature of a file.
    """
    value = strict.mapping(canonical.loads(bundle, what="bundle"), "the bundle")
    if value.get("mediaType") not in MEDIA_TYPES:
        raise UnsupportedVersion(f"unknown bundle media type {value.get('mediaType')!r}")
    if "dsseEnvelope" in value or not isinstance(value.get("messageSignature"), dict):
        raise UnsupportedVersion("the bundle does not sign a file as it is", hint="statements are verified as bundles")
    evidence = _evidence(read_material(value.get("verificationMaterial")))
    digest = _digest(value["messageSignature"], path)
    signature = strict.binary(value["messageSignature"].get("signature"), "signature")
    _verify(evidence.leaf, signature, digest)
    return verify_signing(evidence, Message(digest), signature, root)


def _evidence(material: Material) -> Evidence:
    """Take the leaf: the one certificate, or, as bundles before 0.3 have it, the first of a chain."""
    value: Mapping[str, Any] = material.value
    if material.kind == CHAIN:
        chain = strict.listed(value.get("certificates"), "certificates", most=8)
        value = strict.mapping(chain[0] if chain else None, "the signer's certificate")
    elif material.kind != CERTIFICATE:
        raise UnsupportedVersion(f"the bundle is verified by {material.kind}, not by a Fulcio certificate")
    return gather(strict.binary(value.get("rawBytes"), "certificate"), material)


def _digest(signed: Mapping[str, Any], path: Path | str) -> bytes:
    digest = sha256_of(path)
    stated = signed.get("messageDigest")
    if stated is None:
        return digest
    if strict.mapping(stated, "messageDigest").get("algorithm") != "SHA2_256":
        raise UnsupportedVersion(f"the bundle hashes with {stated.get('algorithm')!r}")
    if strict.binary(stated.get("digest"), "digest", length=32) != digest:
        raise DigestMismatch(f"{path} is not the file that was signed")
    return digest


def sha256_of(path: Path | str) -> bytes:
    """Return the SHA-256 of a file, read in blocks; raises :class:`UnreadableArtifact`."""
    try:
        with Path(path).open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").digest()
    except OSError as error:
        raise UnreadableArtifact(f"cannot read {path}: {error.strerror or error}") from error


def _verify(leaf: x509.Certificate, signature: bytes, digest: bytes) -> None:
    key = leaf.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise SignerUntrusted("the signer's key is not ECDSA, which a digest alone does not verify with")
    try:
        key.verify(signature, digest, ec.ECDSA(Prehashed(hashes.SHA256())))
    except InvalidSignature:
        raise SignatureInvalid("the signature does not verify over the file with the certificate's key") from None


def read_bundle_file(path: Path | str) -> bytes:
    """Return the bytes of a bundle file."""
    return read_bytes(path, "bundle", limit=canonical.MAX_BYTES)
