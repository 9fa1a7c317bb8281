"""Which platform computed these outputs: the inverse problem, solved with known probes and reference traces."""

from holdfast.identification.emulated import EMULATED, PUBLISHED, EmulatedFormat, emulated_trace
from holdfast.identification.evidence import Evidence
from holdfast.identification.grid import GridVerdict, dtype_from_outputs
from holdfast.identification.grid_evidence import GridEvidence, grid_evidence
from holdfast.identification.grid_logprobs import LogprobEvidence, dtype_from_logprobs
from holdfast.identification.grid_text import Rounding, rounding_of
from holdfast.identification.identifier import Candidate, Identification, Identifier, one_of
from holdfast.identification.matching import UNKNOWN, DistanceLaw
from holdfast.identification.matching_tree import ProbeTree, probe_tree
from holdfast.identification.order import OrderTree, summation_tree
from holdfast.identification.order_kernels import ORDER_KERNELS, OrderKernel, OrderSignature, order_signatures
from holdfast.identification.order_replay import replay
from holdfast.identification.order_text import describe_order
from holdfast.identification.platforms import LOCAL_PLATFORMS, LocalPlatform, collect_platforms, trace_on
from holdfast.identification.sequential import Decision, SequentialMatch, echo_of, run_sequential

__all__ = [
    "EMULATED",
    "LOCAL_PLATFORMS",
    "ORDER_KERNELS",
    "PUBLISHED",
    "UNKNOWN",
    "Candidate",
    "Decision",
    "DistanceLaw",
    "EmulatedFormat",
    "Evidence",
    "GridEvidence",
    "GridVerdict",
    "Identification",
    "Identifier",
    "LocalPlatform",
    "LogprobEvidence",
    "OrderKernel",
    "OrderSignature",
    "OrderTree",
    "ProbeTree",
    "Rounding",
    "SequentialMatch",
    "collect_platforms",
    "describe_order",
    "dtype_from_logprobs",
    "dtype_from_outputs",
    "echo_of",
    "emulated_trace",
    "grid_evidence",
    "one_of",
    "order_signatures",
    "probe_tree",
    "replay",
    "rounding_of",
    "run_sequential",
    "summation_tree",
    "trace_on",
]
