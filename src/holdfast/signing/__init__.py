"""Who said it: keys, signatures over statements, and the evidence of whole folders. Needs no framework."""

from holdfast.signing.artifact import (
    VerifiedArtifact,
    VerifiedListing,
    cosign_artifact,
    sign_artifact,
    verify_artifact,
    verify_listing,
)
from holdfast.signing.bundle import Verified, add_signature, sign_statement, verify_bundle
from holdfast.signing.keys import PublicKey, generate_key
from holdfast.signing.oms import Serialization
from holdfast.signing.opened import open_verified
from holdfast.signing.pair import VerifiedModel, cosign_model, sign_model, verify_model
from holdfast.signing.passport import verify_passport, write_passport
from holdfast.signing.signers import KeyHolder, Signer, load_signer, signers
from holdfast.signing.trust import Identity, Trust
from holdfast.signing.trusts import Threshold, TrustSource, TrustSources, load_trust, require_threshold, trusts
from holdfast.signing.verbs import load, sign, verify

__all__ = [
    "Identity",
    "KeyHolder",
    "PublicKey",
    "Serialization",
    "Signer",
    "Threshold",
    "Trust",
    "TrustSource",
    "TrustSources",
    "Verified",
    "VerifiedArtifact",
    "VerifiedListing",
    "VerifiedModel",
    "add_signature",
    "cosign_artifact",
    "cosign_model",
    "generate_key",
    "load",
    "load_signer",
    "load_trust",
    "open_verified",
    "require_threshold",
    "sign",
    "sign_artifact",
    "sign_model",
    "sign_statement",
    "signers",
    "trusts",
    "verify",
    "verify_artifact",
    "verify_bundle",
    "verify_listing",
    "verify_model",
    "verify_passport",
    "write_passport",
]
