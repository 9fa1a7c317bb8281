"""A site is a named place where bits live: stored (weights, buffers, qparams) or flowing (activations, inputs, ...)."""

from __future__ import annotations

import math
from dataclasses import dataclass

KINDS = (
    "weights",
    "buffers",
    "qparams",
    "activations",
    "inputs",
    "outputs",
    "internals",  # steps of fused operators: attention scores, norm statistics
    "offload",
    "cache",  # keys and values that a language model keeps between tokens
    "gradients",
    "moments",  # what an optimizer keeps beside each parameter
)


@dataclass(frozen=True, slots=True)
class Site:
    """One place and the population of bits it holds.

    Flowing sites count one sample: ``shape`` leaves out the batch dimension.
    """

    kind: str  # one of KINDS
    name: str  # stable under every transform: "layer1.0.conv1.weight", "layer1.0/add", "fc.weight/scale"
    shape: tuple[int, ...]
    format: str  # number format of the elements, e.g. "fp32"
    bits: int  # per element

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def population(self) -> int:
        """Number of bits, each a possible fault."""
        return self.numel * self.bits

    @property
    def address(self) -> str:
        """``kind:name``, as the selection language writes it."""
        return f"{self.kind}:{self.name}"
