"""Range guards: what leaves the range of a site, or of one of its channels or tokens, is set right.

The sentinel is one pass over the values that finds their extremes; NaN poisons both. Only when it finds a violation is
anything counted or written, so a clean pass costs that one read. On a CUDA device one kernel does all of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from holdfast.errors import InvalidConfig
from holdfast.hardening.guards.range_on_device import fits, restricted_, table_of
from holdfast.models.guard import Operands, guards

Range = float | Sequence[float]
ACTIONS = ("clip", "zero", "resample")


@guards.register("range-restriction")
class RangeGuard:
    """Keeps one site within [low, high]; what lies outside is replaced by what ``action`` says.

    Args:
        site: name of the guarded place.
        low: one bound, or one for each position along ``dim``; with ``dim`` "element", for each element of a sample.
        high: likewise.
        dim: dimension of the output, counted with the batch, along which the bounds differ; None where they do not.
        action: ``clip`` to the nearest bound, ``zero``, or ``resample`` from ``mean``.
        mean: golden mean, shaped like the bounds; taken by ``resample``.
        nan: ``zero`` makes NaN 0, or the bound nearest to 0 when 0 is outside, or the mean when resampling; ``keep``
            leaves it alone and does not count it, as a plain clamp does.

    Attributes:
        events: int64, shape (batch,): replaced elements of each sample in the last forward; None before the first.

    Raises:
        InvalidConfig: bounds that are not finite and ordered, or do not fit the site's dtype or shape; a mean that is
            missing.
    """

    kind = "range-restriction"

    def __init__(
        self,
        site: str,
        low: Range,
        high: Range,
        *,
        dim: int | str | None = None,
        action: str = "clip",
        mean: Range | None = None,
        nan: str = "zero",
    ) -> None:
        self.site, self.dim, self.action, self.nan = site, dim, action, nan
        self.low, self.high, self.mean = _plain(low), _plain(high), None if mean is None else _plain(mean)
        self._require_sense()
        self._fitted: object = None
        self._low: Tensor | float = 0.0
        self._high: Tensor | float = 0.0
        self._mean: Tensor | float = 0.0
        self._there: Tensor | None = None
        self._others: tuple[int, ...] = ()
        self._batch: tuple[int, torch.device] | None = None
        self._counted: Tensor | None = None

    def _require_sense(self) -> None:
        low, high = torch.tensor(self.low, dtype=torch.float64), torch.tensor(self.high, dtype=torch.float64)
        if low.shape != high.shape or (self.dim is None) != (low.dim() == 0):
            raise InvalidConfig(f"the bounds of {self.site} differ in shape", hint="give one for each position of dim")
        if not bool((low.isfinite() & high.isfinite() & (low <= high)).all()):
            raise InvalidConfig(f"the range [{self.low}, {self.high}] of {self.site} is not finite and ordered")
        if self.action not in ACTIONS or self.nan not in ("zero", "keep"):
            raise InvalidConfig(f"the guard at {self.site} cannot {self.action} or {self.nan}")
        if self.action == "resample" and self.mean is None:
            raise InvalidConfig(f"resampling {self.site} takes a golden mean", hint="calibrate it")

    @property
    def events(self) -> Tensor | None:
        """Replaced elements of each sample in the last forward."""
        if self._counted is None and self._batch is not None:
            count, device = self._batch
            self._counted = torch.zeros(count, dtype=torch.int64, device=device)
        if self._counted is not None and self._counted.dim() == 2:  # by a kernel, and summed only where it is asked for
            return self._counted.sum(1)
        return self._counted

    @events.setter
    def events(self, counts: Tensor | None) -> None:
        self._batch, self._counted = None, counts

    def __call__(self, x: Tensor) -> Tensor:
        """Return ``x`` (batch, ...) within the range; corrects the stored values in place outside of training."""
        self._begin(x)
        if fits(x):
            self._counted = restricted_(x.detach(), self._table(x), self.dim, action=self.action, nan=self.nan)
            if self._counted is not None:
                return x
        if self._inside(x):
            return x
        wrong = self._wrong(x)
        self._counted = by_sample(wrong)
        return self._replaced(x, wrong)

    def _table(self, x: Tensor) -> Tensor:
        if self._there is None or self._there.device != x.device:
            self._there = table_of(self._low, self._high, self._mean, x)
        return self._there

    def _begin(self, x: Tensor) -> None:
        key: object = x.dtype if self.dim is None else (x.dtype, x.shape, x.device)
        if key != self._fitted:
            self._fit(x)
            self._fitted = key
        self._batch, self._counted = (x.shape[0] if x.dim() else 1, x.device), None

    def _replaced(self, x: Tensor, wrong: Tensor) -> Tensor:
        fixed = torch.where(wrong, self._replacement(x), x)
        if x.requires_grad:
            return fixed
        return x.copy_(fixed)  # an operation in place may have other readers

    def _inside(self, x: Tensor) -> bool:
        """One cheap pass that almost always suffices."""
        if x.numel() == 0:
            return True
        if self.dim is None:
            low, high = torch.aminmax(x.detach())
            return bool(low.item() >= self.low and high.item() <= self.high)  # type: ignore[operator]
        if self._others:
            low, high = torch.amin(x.detach(), self._others), torch.amax(x.detach(), self._others)
            return bool(((low >= self._low) & (high <= self._high)).all())
        return bool(((x >= self._low) & (x <= self._high)).all())

    def _wrong(self, x: Tensor) -> Tensor:
        if self.nan == "keep":
            return (x < self._low) | (x > self._high)
        return ~((x >= self._low) & (x <= self._high))

    def _replacement(self, x: Tensor) -> Tensor:
        if self.action == "zero":
            return torch.zeros_like(x)
        if self.action == "resample":
            return torch.zeros_like(x) + self._mean
        nothing = torch.zeros_like(x).clamp(self._low, self._high)  # type: ignore[arg-type]
        return torch.where(x.isnan(), nothing, x.clamp(self._low, self._high))  # type: ignore[arg-type]

    def _fit(self, x: Tensor) -> None:
        """Bring the bounds into the dtype, shape and device of ``x``."""
        self._there = None
        require_fit(self.site, self.low, self.high, x.dtype)
        given = (self.low, self.high, 0.0 if self.mean is None else self.mean)
        if self.dim is None:
            self._low, self._high, self._mean = given  # type: ignore[assignment]
            return
        shape = self._shape(x)
        shaped = [torch.tensor(item, dtype=torch.float64).expand(math.prod(shape)).reshape(shape) for item in given]
        self._low, self._high, self._mean = (item.to(x) for item in shaped)
        place = None if self.dim == "element" else int(self.dim) % x.dim()
        self._others = () if place is None else tuple(other for other in range(x.dim()) if other != place)

    def _shape(self, x: Tensor) -> tuple[int, ...]:
        """Return the shape of bounds that line up with the last dimensions of ``x``."""
        place = 0 if isinstance(self.dim, str | None) else self.dim % x.dim()
        shape = tuple(x.shape[1:]) if self.dim == "element" else (x.shape[place], *[1] * (x.dim() - 1 - place))
        if math.prod(shape) != len(self.low):  # type: ignore[arg-type]
            raise InvalidConfig(
                f"{self.site} has {len(self.low)} bounds, one per {self.dim}, but gave {tuple(x.shape)}",  # type: ignore[arg-type]
                hint="calibrate on inputs of this size, or with per=tensor",
            )
        return shape

    def to_json(self) -> dict[str, Any]:
        """Return kind, site and bounds; of the rest, what is not usual."""
        value: dict[str, Any] = {"kind": self.kind, "site": self.site, "low": self.low, "high": self.high}
        usual = {"dim": None, "action": "clip", "mean": None, "nan": "zero"}
        return value | {key: getattr(self, key) for key, item in usual.items() if getattr(self, key) != item}


@guards.register("range-recompute")
class RecomputingRangeGuard(RangeGuard):
    """A range guard that computes again the samples in which something lies outside.

    A transient error is gone then. What is still outside was no transient: it is replaced as ``action`` says, and
    counted in ``alarms`` rather than ``events``. What an operation in place has overwritten cannot be computed again,
    and counts as an alarm likewise.
    """

    kind = "range-recompute"
    operands = True

    alarms: Tensor | None = None

    def __call__(self, x: Tensor, operands: Operands) -> Tensor:  # type: ignore[override]
        """Return ``x`` (batch, ...) within the range, recomputed where it was not."""
        self._begin(x)
        self.alarms = None if self.events is None else torch.zeros_like(self.events)
        if self._inside(x):
            return x
        wrong = self._wrong(x)
        x = self._recomputed(x, wrong, operands)
        still = self._wrong(x)
        self._counted, self.alarms = by_sample(wrong & ~still), by_sample(still)
        return self._replaced(x, still)

    def _recomputed(self, x: Tensor, wrong: Tensor, operands: Operands) -> Tensor:
        """Return ``x`` with the samples in which something is ``wrong`` computed again, if that is possible."""
        if any(_shares(item, x) for item in (*operands.args, *operands.kwargs.values())):
            return x
        again = operands.again()
        if not isinstance(again, Tensor) or again.shape != x.shape:
            return x
        rows = wrong.flatten(1).any(1).view(-1, *[1] * (x.dim() - 1))
        fixed = torch.where(rows, again, x)
        return fixed if x.requires_grad else x.copy_(fixed)


def require_fit(site: str, low: Range, high: Range, dtype: torch.dtype) -> None:
    """Refuse bounds that ``dtype`` cannot hold.

    Raises:
        InvalidConfig: they are beyond its largest number.
    """
    limit = torch.finfo(dtype).max
    least, most = _least(low), _most(high)
    if max(-least, most) > limit:
        name = str(dtype).removeprefix("torch.")
        raise InvalidConfig(
            f"the range [{least:g}, {most:g}] of {site} does not fit {name}, whose limit is {limit:g}",
            hint=f"profile the model in {name}, or lower the slack",
        )


def by_sample(wrong: Tensor) -> Tensor:
    """Return how many elements of each sample are true, int64, shape (batch,)."""
    return wrong.flatten(1).sum(1) if wrong.dim() > 1 else wrong.long().reshape(-1)


def _plain(value: Range) -> float | list[float]:
    return float(value) if isinstance(value, int | float) else [float(item) for item in value]


def _least(value: Range) -> float:
    return float(value) if isinstance(value, int | float) else min(value)


def _most(value: Range) -> float:
    return float(value) if isinstance(value, int | float) else max(value)


def _shares(item: object, x: Tensor) -> bool:
    return isinstance(item, Tensor) and item.untyped_storage().data_ptr() == x.untyped_storage().data_ptr()
