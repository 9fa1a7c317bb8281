"""Activation functions in a captured computation, and what follows them without leaving their range."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.errors import NoSuchSite
from holdfast.hardening.calibration import Calibration
from holdfast.hardening.capture import Computation, Node

ACTIVATIONS = (
    "relu", "relu6", "leakyrelu", "prelu", "elu", "selu", "celu", "gelu", "silu", "swish", "mish", "tanh",
    "sigmoid", "hardtanh", "hardswish", "hardsigmoid", "softplus", "threshold", "geluactivation",
    "newgeluactivation", "quickgeluactivation", "quickgelu", "gelutanh", "fastgelu",
)  # fmt: skip
_POOLS = ("max_pool", "avg_pool", "adaptive_max_pool", "adaptive_avg_pool", "maxpool", "avgpool")
_POOLS_OF_MODULES = ("adaptivemaxpool", "adaptiveavgpool")
_MOVES = (
    "cat", "concat", "concatenate", "flatten", "reshape", "view", "squeeze", "unsqueeze", "permute", "transpose",
    "contiguous",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Followed:
    """A place whose values stay within the range of the activations it was made from."""

    site: str
    low: float
    high: float


def activation_sites(computation: Computation) -> tuple[str, ...]:
    """Return the places of activation functions, in order.

    Raises:
        NoSuchSite: there is none.
    """
    found = tuple(node.site for node in computation.nodes if node.floats and _is_activation(node))
    if not found:
        raise NoSuchSite("the model computes no activation function known here", hint="guard with range instead")
    return found


def followers(computation: Computation, calibration: Calibration) -> tuple[Followed, ...]:
    """Return pools and concatenations of activations, and what else merely moves their values, with their bounds.

    Only what writes values anew is listed: a view has the corrected values already.
    """
    ranges: dict[int, tuple[float, float]] = {}
    found = []
    for node in computation.nodes:
        if node.site in calibration.sites:
            item = calibration.sites[node.site]
            ranges[node.number] = (float(item.low.min()), float(item.high.max()))
        elif node.floats and node.parents and _moves(node) and all(parent in ranges for parent in node.parents):
            low = min(ranges[parent][0] for parent in node.parents)
            high = max(ranges[parent][1] for parent in node.parents)
            ranges[node.number] = (low, high)
            if node.written == node.number:
                found.append(Followed(node.site, low, high))
    return tuple(found)


def _is_activation(node: Node) -> bool:
    return node.operation.lower().rstrip("_") in ACTIVATIONS


def _moves(node: Node) -> bool:
    name = node.operation.lower()
    return name in _MOVES or name.startswith((*_POOLS, *_POOLS_OF_MODULES))
