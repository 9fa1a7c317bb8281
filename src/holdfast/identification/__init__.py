"""Which platform computed these outputs: the inverse problem, solved with known probes and reference traces."""

from holdfast.identification.answers import Answer, Collection, TokenAnswer
from holdfast.identification.audit import audit_model
from holdfast.identification.collectors import ServerRequest, collect_answers
from holdfast.identification.comparison import Comparison, compare_answers
from holdfast.identification.defence import (
    Defence,
    Noise,
    OneByOne,
    RoundOutputs,
    Utility,
    WideReductions,
    defend,
    noise_scale,
    utility,
)
from holdfast.identification.drift import DriftMonitor, Watched, logprob_drift
from holdfast.identification.emulated import EMULATED, PUBLISHED, EmulatedFormat, emulated_trace
from holdfast.identification.equality import TwoSample, model_equality
from holdfast.identification.evidence import Evidence
from holdfast.identification.grid import GridVerdict, dtype_from_outputs
from holdfast.identification.grid_evidence import GridEvidence, grid_evidence
from holdfast.identification.grid_logprobs import LogprobEvidence, dtype_from_logprobs
from holdfast.identification.grid_text import Rounding, rounding_of
from holdfast.identification.head import Head, head_of, head_of_answers
from holdfast.identification.identifier import Identifier
from holdfast.identification.matching import UNKNOWN, DistanceLaw
from holdfast.identification.matching_tree import ProbeTree, probe_tree
from holdfast.identification.order import OrderTree, summation_tree
from holdfast.identification.order_kernels import ORDER_KERNELS, OrderKernel, OrderSignature, order_signatures
from holdfast.identification.order_replay import replay
from holdfast.identification.order_text import describe_order
from holdfast.identification.platforms import LOCAL_PLATFORMS, LocalPlatform, collect_platforms, trace_on
from holdfast.identification.posterior import Candidate, Identification, one_of
from holdfast.identification.power import IdentificationPower, identification_power
from holdfast.identification.providers import (
    Claim,
    ClaimTest,
    Honest,
    MixedFleet,
    RoutedByPrompt,
    Substitution,
    digests,
    requests_until_refuted,
    spoofed,
)
from holdfast.identification.sequential import Decision, SequentialMatch, echo_of, run_sequential
from holdfast.identification.served import ServedAnswers, identify_answers
from holdfast.identification.token_difr import SharedSampling, TokenDivergence, token_divergence

__all__ = [
    "EMULATED",
    "LOCAL_PLATFORMS",
    "ORDER_KERNELS",
    "PUBLISHED",
    "UNKNOWN",
    "Answer",
    "Candidate",
    "Claim",
    "ClaimTest",
    "Collection",
    "Comparison",
    "Decision",
    "Defence",
    "DistanceLaw",
    "DriftMonitor",
    "EmulatedFormat",
    "Evidence",
    "GridEvidence",
    "GridVerdict",
    "Head",
    "Honest",
    "Identification",
    "IdentificationPower",
    "Identifier",
    "LocalPlatform",
    "LogprobEvidence",
    "MixedFleet",
    "Noise",
    "OneByOne",
    "OrderKernel",
    "OrderSignature",
    "OrderTree",
    "ProbeTree",
    "RoundOutputs",
    "Rounding",
    "RoutedByPrompt",
    "SequentialMatch",
    "ServedAnswers",
    "ServerRequest",
    "SharedSampling",
    "Substitution",
    "TokenAnswer",
    "TokenDivergence",
    "TwoSample",
    "Utility",
    "Watched",
    "WideReductions",
    "audit_model",
    "collect_answers",
    "collect_platforms",
    "compare_answers",
    "defend",
    "describe_order",
    "digests",
    "dtype_from_logprobs",
    "dtype_from_outputs",
    "echo_of",
    "emulated_trace",
    "grid_evidence",
    "head_of",
    "head_of_answers",
    "identification_power",
    "identify_answers",
    "logprob_drift",
    "model_equality",
    "noise_scale",
    "one_of",
    "order_signatures",
    "probe_tree",
    "replay",
    "requests_until_refuted",
    "rounding_of",
    "run_sequential",
    "spoofed",
    "summation_tree",
    "token_divergence",
    "trace_on",
    "utility",
]
