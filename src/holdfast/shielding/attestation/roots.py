"""The vendors' roots, by SHA-256 of their public keys (SubjectPublicKeyInfo). The certificates come as collateral.

Each can be had from its vendor and hashed with
``openssl x509 -pubkey -noout | openssl pkey -pubin -outform DER | sha256sum``.
"""

from __future__ import annotations

import hashlib

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

AMD = {
    "9f056bee44377e29308cb5ffa895bdfb62d18881fa6bed8d6f075b0204089cb9": "Milan",
    "429a69c9422aa258ee4d8db5fcda9c6470ef15f8cd5a9cebd6cbc7d90b863831": "Genoa",
    "4f125410563a2ab9a50356f9243f6fe0b6f73de98603f53f90339c70e9d7ad08": "Turin",
}
AWS_NITRO = "f2caf5ecc6190b4a8399b78bc58a2bbcd0382375db8a1bfd78a82743874fd225"
INTEL_SGX = "a0af031289f5d5d4132f9186068a7fc13628633ba235777472e29b6b6c67a49e"
NVIDIA_DEVICE = "a90c4eb5acfd3e3d03a25db6a26b84f720ad0503196c627c21ddd48dd85b06a4"


def key_digest(certificate: x509.Certificate) -> str:
    """Return SHA-256 (hex) of a certificate's SubjectPublicKeyInfo."""
    info = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(info).hexdigest()
