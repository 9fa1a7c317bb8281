"""Who said it: keys, signatures over statements, and the evidence of whole folders. Needs no framework.

What verifying with a key needs is imported at once, the rest on first use: start-up is most of what a small one costs.
"""

from typing import TYPE_CHECKING

from holdfast import _lazy
from holdfast.signing.bundle import Verified, add_signature, sign_statement, verify_bundle
from holdfast.signing.keys import PublicKey, generate_key
from holdfast.signing.signers import KeyHolder, Signer, load_signer, signers
from holdfast.signing.trust import Identity, Trust
from holdfast.signing.trusts import Threshold, TrustSource, TrustSources, load_trust, require_threshold, trusts

if TYPE_CHECKING:
    from holdfast.signing.artifact import (
        VerifiedArtifact,
        VerifiedListing,
        cosign_artifact,
        sign_artifact,
        verify_artifact,
        verify_listing,
    )
    from holdfast.signing.oms.serialization import Serialization
    from holdfast.signing.opened.model import open_verified
    from holdfast.signing.pair import VerifiedModel, cosign_model, sign_model, verify_model
    from holdfast.signing.passport import verify_passport, write_passport
    from holdfast.signing.verbs import load, sign, verify

_EXPORTS = {
    "Serialization": "holdfast.signing.oms.serialization:Serialization",
    "VerifiedArtifact": "holdfast.signing.artifact:VerifiedArtifact",
    "VerifiedListing": "holdfast.signing.artifact:VerifiedListing",
    "VerifiedModel": "holdfast.signing.pair:VerifiedModel",
    "cosign_artifact": "holdfast.signing.artifact:cosign_artifact",
    "cosign_model": "holdfast.signing.pair:cosign_model",
    "load": "holdfast.signing.verbs:load",
    "open_verified": "holdfast.signing.opened.model:open_verified",
    "sign": "holdfast.signing.verbs:sign",
    "sign_artifact": "holdfast.signing.artifact:sign_artifact",
    "sign_model": "holdfast.signing.pair:sign_model",
    "verify": "holdfast.signing.verbs:verify",
    "verify_artifact": "holdfast.signing.artifact:verify_artifact",
    "verify_listing": "holdfast.signing.artifact:verify_listing",
    "verify_model": "holdfast.signing.pair:verify_model",
    "verify_passport": "holdfast.signing.passport:verify_passport",
    "write_passport": "holdfast.signing.passport:write_passport",
}

__getattr__, __dir__ = _lazy.attach(__name__, _EXPORTS)

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
