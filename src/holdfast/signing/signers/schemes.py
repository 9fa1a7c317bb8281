"""The schemes of ``--key`` that are imported when one is asked for, so that the others start quickly."""

from __future__ import annotations

from holdfast.signing.signers.protocol import KeyHolder


def certificate(rest: str, *, password: bytes | None = None) -> KeyHolder:
    """Return the signer of ``certificate:key=KEY,chain=leaf.pem+between.pem``."""
    from holdfast.signing.signers.certificate import certificate_signer

    return certificate_signer(rest, password=password)


def pkcs11(rest: str, *, password: bytes | None = None) -> KeyHolder:
    """Return the signer of a PKCS#11 URI, ``pkcs11:token=T;object=K?module-path=/LIB.so&pin-source=file:/PIN``."""
    from holdfast.signing.signers.pkcs11 import token_signer

    return token_signer(rest, password=password)


def kms(rest: str, *, password: bytes | None = None) -> KeyHolder:
    """Return the signer of ``kms:uri=(awskms:KEY),public=K.pub``."""
    from holdfast.signing.signers.kms import kms_signer

    return kms_signer(rest, password=password)
