"""What a product really multiplied: under ``torch.autocast`` neither the tensors it was called with nor stored weights.

There torch rounds every factor to the dtype of the region first, fp64 excepted, and stores the product in that dtype. A
checksum of the unrounded factors would be off by the rounding of each, a thousand times what accumulating them loses.
So checks read the factors as they were rounded, and compute outside the region, which would round their sums as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from threading import RLock
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.models.guard import Operands

_one_at_a_time = RLock()
_UNBATCHED = {nn.Linear: 1, nn.Conv1d: 2, nn.Conv2d: 3}  # dimensions of the output of a sample without a batch


@contextmanager
def multiplied(operands: Operands, output: Tensor) -> Iterator[Operands]:
    """Yield the operands as the product took them; inside the block no autocast region is in force.

    Args:
        operands: of the call.
        output: of the call; its dtype is that of the product.
    """
    if not torch.is_autocast_enabled(output.device.type):
        yield operands if first_of(operands).dtype == output.dtype else rounded(operands, output.dtype)
        return
    with torch.autocast(output.device.type, enabled=False):
        yield rounded(operands, output.dtype)


def rounded(operands: Operands, dtype: torch.dtype) -> Operands:
    """Return operands whose floating-point tensors are rounded to ``dtype`` as autocast rounds them."""
    args = tuple(as_factor(item, dtype) for item in operands.args)
    return replace(operands, args=args, kwargs={name: as_factor(item, dtype) for name, item in operands.kwargs.items()})


def as_factor(item: Any, dtype: torch.dtype) -> Any:
    """Return ``item`` as a product stored as ``dtype`` takes it; what is no tensor of floating-point numbers stays."""
    return item.to(dtype) if isinstance(item, Tensor) and item.is_floating_point() else item


def first_of(operands: Operands) -> Tensor:
    """Return what the operation was called with first."""
    named = (operands.kwargs[name] for name in ("input", "query") if name in operands.kwargs)
    given: Tensor = operands.args[0] if operands.args else next(named)
    return given


def lacks_batch(operands: Operands, output: Tensor) -> bool:
    """Say whether a layer was given one sample without a batch dimension, which linear and convolutional ones take."""
    return any(isinstance(operands.call, kind) and output.dim() == dims for kind, dims in _UNBATCHED.items())


@dataclass(frozen=True, slots=True)
class Batched(Operands):
    """Operands of a layer that was given one sample, as a batch of it."""

    @classmethod
    def of(cls, operands: Operands) -> Batched:
        """Return ``operands`` with a batch dimension before their first tensor."""
        return cls(operands.call, (first_of(operands).unsqueeze(0),), {})

    def again(self) -> Any:
        """Compute the layer once more as it was called: a batch of one may take another kernel, with other bits."""
        return Operands(self.call, (self.args[0].squeeze(0),), {}).again().unsqueeze(0)


@contextmanager
def holding(layer: nn.Module, weight: Tensor, bias: Tensor | None) -> Iterator[None]:
    """Let ``layer`` compute with other weights inside the block, by the very kernels that it takes with its own.

    Whether weights want a gradient, and the autocast region that their layer enters, are part of what torch chooses a
    kernel by; so neither is left out. One thread at a time: the later of two would put back what the other had put in.
    """
    with _one_at_a_time:
        own = layer._parameters
        others = {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
        layer._parameters = own | {name: _like(own[name], value) for name, value in others.items()}
        try:
            yield
        finally:
            layer._parameters = own


def _like(own: Tensor | None, value: Tensor) -> nn.Parameter:
    return nn.Parameter(value, requires_grad=own is not None and own.requires_grad)
