"""Calibration: what range each site, or each channel, token or element of it, takes on clean data.

The extremes of every sample are kept, so that a bound can be a quantile *over samples*: with ``quantile=0.999`` the
bound is the order statistic k = ceil((n + 1) q) of the n samples' maxima, which a further clean sample exceeds with
probability at most 1 - q (split conformal prediction; Vovk, Gammerman and Shafer, 2005).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.data import Dataset
from holdfast.errors import InvalidConfig, NoSuchSite
from holdfast.execution import Progress
from holdfast.execution.fit import require_fit
from holdfast.execution.run import pass_over
from holdfast.hardening.binding import values_digest
from holdfast.hardening.layout import Per, require_parts, varying_dim
from holdfast.models import tap


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteRange:
    """What one site showed.

    Attributes:
        low: lower end of each part, shape (parts,); one part for the whole site.
        high: upper end of each part, likewise.
        mean: mean of each part, likewise.
        dim: dimension along which the parts lie, "element", or None where there is one part.
        dtype: of the values.
        count: number of values seen.
    """

    low: Tensor
    high: Tensor
    mean: Tensor
    dim: int | str | None
    dtype: torch.dtype
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """The ranges of the sites of one model on one set of clean data.

    Attributes:
        sites: site name -> its range.
        per: what has a range of its own.
        quantile: share of clean samples within the range.
        samples: number of samples seen.
        data_digest: digest of the data.
        values_digest: digest of the model's weights and architecture.
    """

    sites: Mapping[str, SiteRange]
    per: Per
    quantile: float
    samples: int
    data_digest: str
    values_digest: str

    def describe(self) -> dict[str, Any]:
        """Return how it was made, as the lineage keeps it."""
        return {"per": self.per, "quantile": self.quantile, "samples": self.samples, "profile": self.data_digest}


def calibrate(
    model: nn.Module,
    data: Dataset,
    sites: Sequence[str],
    *,
    per: Per = "tensor",
    quantile: float = 1.0,
    batch_size: int = 64,
    progress: Progress | None = None,
) -> Calibration:
    """Run ``model`` over clean ``data`` and return the range of every place in ``sites``.

    Args:
        model: run in evaluation mode; unchanged.
        data: representative, and never the data on which the hardened model is judged.
        sites: names of computed places, such as :func:`holdfast.hardening.place` gives.
        per: ``tensor``, ``channel``, ``token`` or ``element``: what gets bounds of its own.
        quantile: share of samples whose extremes the range holds, above 0.5; 1 takes the extremes of all.

    Raises:
        InvalidConfig: the model does not take the data, a quantile out of range, NaN or infinity on clean data, or a
            site without such parts.
        NoSuchSite: a site that cannot, or did not, compute.
    """
    if not 0.5 < quantile <= 1:
        raise InvalidConfig(f"a quantile lies above 0.5 and at most at 1, not {quantile}", hint="0.999, or 1 for all")
    require_fit(model, data, labels=False)
    modules = dict(model.named_modules())
    seen = {name: _Seen(name, modules.get(name.partition("#")[0]), per, quantile < 1) for name in sites}
    with tap(model, {name: item.watch for name, item in seen.items()}):
        pass_over(model, data, batch_size=batch_size, progress=progress)
    return Calibration(
        sites={name: item.result(quantile) for name, item in seen.items()},
        per=per,
        quantile=quantile,
        samples=len(data),
        data_digest=data.digest,
        values_digest=values_digest(model),
    )


@dataclass
class _Seen:
    site: str
    module: nn.Module | None
    per: Per
    every: bool  # whether the extremes of every sample are needed
    lows: list[Tensor] = field(default_factory=list)
    highs: list[Tensor] = field(default_factory=list)
    total: Tensor | None = None
    count: int = 0
    watch: Callable[[Tensor], Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.watch = self._update
        self.dim: int | str | None = None
        self.dtype = torch.float32

    def _update(self, output: Tensor) -> Tensor:
        if not self.count:
            self.dim, self.dtype = varying_dim(self.site, self.module, tuple(output.shape), self.per), output.dtype
        parts = require_parts(self.site, output.detach(), self.dim)  # (batch, parts, values of a part)
        low, high = parts.amin(2), parts.amax(2)
        if not bool(low.isfinite().all() & high.isfinite().all()):
            raise InvalidConfig(
                f"{self.site} gives NaN or infinity on clean data", hint="check the weights and the data"
            )
        self.lows.append(low if self.every else low.amin(0, keepdim=True))
        self.highs.append(high if self.every else high.amax(0, keepdim=True))
        sums = parts.double().sum((0, 2))
        self.total = sums if self.total is None else self.total + sums
        self.count += output.numel()
        return output

    def result(self, quantile: float) -> SiteRange:
        if self.total is None:
            raise NoSuchSite(f"{self.site} did not compute on this data")
        low, high = -_bound(-torch.cat(self.lows), quantile), _bound(torch.cat(self.highs), quantile)
        mean = self.total / (self.count / len(self.total))
        return SiteRange(low=low, high=high, mean=mean, dim=self.dim, dtype=self.dtype, count=self.count)


def _bound(extremes: Tensor, quantile: float) -> Tensor:
    """Return the upper bound of each part from the extremes of the samples, shape (samples, parts)."""
    samples = len(extremes)
    place = samples if quantile == 1 else min(samples, math.ceil((samples + 1) * quantile))
    return extremes.double().kthvalue(place, dim=0).values
