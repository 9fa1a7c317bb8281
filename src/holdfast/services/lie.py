"""A worker that lies on purpose, with the same faults that strike memory."""

from __future__ import annotations

from torch import Tensor

import holdfast.faults  # noqa: F401  (registers the built-in faults)
from holdfast.execution.condition import Population, faults
from holdfast.models import Site
from holdfast.numerics import bits
from holdfast.seeds import derive


class Lie:
    """Applies a fault to every answer of a worker; each answer draws from its own stream.

    Args:
        fault: specification of a registered fault, such as ``bit-flip`` or ``bit-errors:rate=0.001``.
        seed: 0 .. 2**64-1.

    Raises:
        UnknownName, InvalidConfig: ``fault`` is not a fault.
    """

    def __init__(self, fault: str, seed: int) -> None:
        self._fault, self._seed, self._answers = faults.build(fault), seed, 0

    def __call__(self, layer: str, product: Tensor) -> Tensor:
        """Return int32 ``product`` (batch, *output) with the next flips applied, in place."""
        self._answers += 1
        site = Site("offload", layer, tuple(product.shape), "int32", 32)
        for flips in self._fault.flips(Population((site,)), derive(self._seed, "worker", self._answers)):
            bits.xor_(product, flips.index, flips.against(product.view(-1)[flips.index]))
        return product
