"""Certificate chains of signers: read, walked to chosen roots, checked by name, matched with a demanded name."""

from holdfast.signing.x509.certificates import (
    certificate_name,
    chain_value,
    issuer_of,
    leaf_key,
    name_of,
    read_certificates,
    read_chain,
    read_files,
)
from holdfast.signing.x509.checks import CODE_SIGNING, TIME_STAMPING, Purpose, require_leaf
from holdfast.signing.x509.identity import NameRule
from holdfast.signing.x509.path import PathRules, find_path
from holdfast.signing.x509.revocation import read_lists, require_unrevoked

__all__ = [
    "CODE_SIGNING",
    "TIME_STAMPING",
    "NameRule",
    "PathRules",
    "Purpose",
    "certificate_name",
    "chain_value",
    "find_path",
    "issuer_of",
    "leaf_key",
    "name_of",
    "read_certificates",
    "read_chain",
    "read_files",
    "read_lists",
    "require_leaf",
    "require_unrevoked",
]
