"""Sigstore: keyless signatures verified offline, step by step, with the primitives of ``cryptography`` alone."""

from holdfast.signing.sigstore.artifact import verify_file_signing
from holdfast.signing.sigstore.roots import load_root, refresh_trusted_root
from holdfast.signing.sigstore.trusted_root import TrustedRoot, parse_trusted_root, read_trusted_root
from holdfast.signing.sigstore.verify import Signing, verify_signing

__all__ = [
    "Signing",
    "TrustedRoot",
    "load_root",
    "parse_trusted_root",
    "read_trusted_root",
    "refresh_trusted_root",
    "verify_file_signing",
    "verify_signing",
]
