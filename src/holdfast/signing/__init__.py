"""Who said it: keys, signatures over statements, and the evidence of whole folders. Needs no framework."""

from holdfast.signing.bundle import Verified, sign_statement, verify_bundle
from holdfast.signing.keys import PublicKey, Signer, generate_key, load_trust
from holdfast.signing.oms import sign_artifact, verify_artifact
from holdfast.signing.passport import verify_passport, write_passport
from holdfast.signing.signers import load_signer, signers
from holdfast.signing.verbs import load, sign, verify

__all__ = [
    "PublicKey",
    "Signer",
    "Verified",
    "generate_key",
    "load",
    "load_signer",
    "load_trust",
    "sign",
    "sign_artifact",
    "sign_statement",
    "signers",
    "verify",
    "verify_artifact",
    "verify_bundle",
    "verify_passport",
    "write_passport",
]
