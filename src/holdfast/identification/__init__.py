"""Which platform computed these outputs: the inverse problem, solved with known probes and reference traces."""

from holdfast.identification.grid import GridVerdict, dtype_from_outputs
from holdfast.identification.identifier import UNKNOWN, Candidate, Identification, Identifier
from holdfast.identification.platforms import LOCAL_PLATFORMS, LocalPlatform, collect_platforms, trace_on

__all__ = [
    "LOCAL_PLATFORMS",
    "UNKNOWN",
    "Candidate",
    "GridVerdict",
    "Identification",
    "Identifier",
    "LocalPlatform",
    "collect_platforms",
    "dtype_from_outputs",
    "trace_on",
]
