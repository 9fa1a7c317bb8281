"""OpenSSF model signatures (OMS v1.0): statements over every file of a model, readable by ``model-signing`` too."""

from holdfast.evidence.beside import default_signature
from holdfast.signing.oms.comparison import require_contents, require_same, signed_files
from holdfast.signing.oms.serialization import Contents, Serialization, digests
from holdfast.signing.oms.statement import PREDICATE_TYPE, Listing, read_statement, root_digest, write_statement

__all__ = [
    "PREDICATE_TYPE",
    "Contents",
    "Listing",
    "Serialization",
    "default_signature",
    "digests",
    "read_statement",
    "require_contents",
    "require_same",
    "root_digest",
    "signed_files",
    "write_statement",
]
