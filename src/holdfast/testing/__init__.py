"""Contracts that every plugin of an extension point keeps, as functions its author can run.

``check_format(MyFormat())`` returns nothing, or raises :class:`ContractBroken` with the first law that does not hold.
"""

from holdfast.testing.attacks import check_attack
from holdfast.testing.contract import ContractBroken
from holdfast.testing.corruptions import check_pattern, check_value
from holdfast.testing.faults import check_fault
from holdfast.testing.formats import check_format
from holdfast.testing.signers import check_signer
from holdfast.testing.trusts import check_trust
from holdfast.testing.verifiers import check_verifier

__all__ = [
    "ContractBroken",
    "check_attack",
    "check_fault",
    "check_format",
    "check_pattern",
    "check_signer",
    "check_trust",
    "check_value",
    "check_verifier",
]
