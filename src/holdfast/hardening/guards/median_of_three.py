"""Median of three passes: what a fault did to one of them is outvoted, element by element.

What a single pass got wrong, NaN included, cannot be the middle of three values of which two are right. A fault that
stays, in a weight for example, is in all three and passes unseen: codes and checksums are for those. The second pass
already tells whether anything is wrong, so a clean input costs one more pass, and only a disagreement a third.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._C import DisableTorchFunction
from torch.utils.hooks import RemovableHandle

from holdfast.data import Dataset
from holdfast.errors import InvalidConfig
from holdfast.hardening.harden import methods
from holdfast.models.guard import guards
from holdfast.numerics import bits


@guards.register("median-of-3")
class MedianGuard:
    """Runs the model again on the same input, and a third time where the two outputs differ in any bit.

    Guards at sites run in the first pass alone.

    Attributes:
        events: int64, shape (batch,): elements of the first pass that the other two outvoted.
        alarms: int64, shape (batch,): elements on which no two passes agree; the middle one is returned.

    Args:
        site: empty: the whole model.

    Raises:
        InvalidConfig: a site.
    """

    kind = "median-of-3"

    def __init__(self, site: str = "") -> None:
        if site:
            raise InvalidConfig(f"the median of three is of the whole model, not of {site}", hint="use duplicate")
        self.site = site
        self.events: Tensor | None = None
        self.alarms: Tensor | None = None
        self._handle: RemovableHandle | None = None

    def before(self, model: nn.Module) -> None:
        """Have the vote take place when this pass ends."""
        self._finish()  # a pass that failed has left its hook behind
        self._handle = model.register_forward_hook(self._vote, with_kwargs=True)

    def after(self, model: nn.Module, output: Any) -> Any:
        """Return the output as it is; the vote follows, with the inputs at hand."""
        return output

    def _finish(self) -> None:
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def _vote(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Tensor:
        """Return the median of three outputs.

        Raises:
            InvalidConfig: the output is not a single tensor of floats.
        """
        self._finish()
        if not isinstance(output, Tensor) or not output.is_floating_point():
            raise InvalidConfig("a median takes a model that returns one tensor of floats")
        with DisableTorchFunction():  # what is computed again is no operation of the pass
            second = model.forward(*args, **kwargs)
            if bits.bit_equal(output.contiguous(), second.contiguous()):
                self.events = self.alarms = torch.zeros(len(output), dtype=torch.int64)
                return output
            return self._settled(output, second, model.forward(*args, **kwargs))

    def _settled(self, first: Tensor, second: Tensor, third: Tensor) -> Tensor:
        result, split = median_of_three(first, second, third)
        outvoted = _differ(first, result) & ~split
        self.events, self.alarms = (mask.reshape(len(first), -1).sum(1) for mask in (outvoted, split))
        return result

    def to_json(self) -> dict[str, Any]:
        """Return kind and site."""
        return {"kind": self.kind, "site": self.site}


def median_of_three(first: Tensor, second: Tensor, third: Tensor) -> tuple[Tensor, Tensor]:
    """Return the elementwise median, and where no two of the three have the same bits (bool).

    NaN counts as larger than everything, so one NaN never is the median.
    """
    split = _differ(first, second) & _differ(second, third) & _differ(first, third)
    agreed = torch.where(_differ(second, third), first, second)  # where two agree, they are the median
    middle = torch.stack([first, second, third]).sort(0).values[1]  # sorts NaN last
    return torch.where(split, middle, agreed), split


def _differ(one: Tensor, other: Tensor) -> Tensor:
    return bits.int_view(one.contiguous()) != bits.int_view(other.contiguous())


@methods.register("median-of-3")
@dataclass(frozen=True, slots=True, kw_only=True)
class MedianOfThree:
    """The median of three passes."""

    def calibrated(self, model: nn.Module, data: Dataset | None) -> MedianOfThree:
        """Return itself: nothing is learnt from data."""
        return self

    def guards(self, model: nn.Module) -> Sequence[MedianGuard]:
        """Return the one guard."""
        return [MedianGuard()]

    def describe(self) -> dict[str, Any]:
        """Return the name."""
        return {"method": "median-of-3"}
