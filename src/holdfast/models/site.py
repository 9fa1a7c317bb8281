"""A site is a named place where bits live: stored (weights, buffers, qparams) or flowing (activations, inputs, ...)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

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

    Where a model folds the batch into another dimension, as (tokens * batch, features), a sample does not lie in one
    piece but in ``outer`` of them, between which those of the other samples lie. Elements are counted within a sample,
    so that a fault means the same whatever the size of the batch.
    """

    kind: str  # one of KINDS
    name: str  # stable under every transform: "layer1.0.conv1.weight", "layer1.0/add", "fc.weight/scale"
    shape: tuple[int, ...]
    format: str  # number format of the elements, e.g. "fp32"
    bits: int  # per element
    outer: int = field(default=1, compare=False)  # a matter of how it is computed, not of which bits there are

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

    def positions(self, rows: Tensor, index: Tensor, samples: int) -> Tensor:
        """Return where element index[k] of sample rows[k] lies in the memory of a batch of ``samples``, (n,)."""
        inner = self.numel // self.outer
        return (index.div(inner, rounding_mode="floor") * samples + rows) * inner + index % inner
