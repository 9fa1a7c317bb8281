"""Profiling: the range of values that each site takes on clean data."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
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
from holdfast.models import select, tap


@dataclass(frozen=True)
class Bounds:
    """Smallest and largest value seen at each site.

    Attributes:
        ranges: site name -> (low, high, n), n the number of values seen.
        data_digest: digest of the data they were seen on.
        values_digest: digest of the weights and architecture of the model; empty where nobody recorded it.
    """

    ranges: Mapping[str, tuple[float, float, int]]
    data_digest: str = ""
    values_digest: str = ""

    def __getitem__(self, site: str) -> tuple[float, float, int]:
        """Return (low, high, n) of a site."""
        return self.ranges[site]

    def __len__(self) -> int:
        """Return the number of sites."""
        return len(self.ranges)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        ranges = {site: list(found) for site, found in self.ranges.items()}
        return {"ranges": ranges, "data": self.data_digest, "model": self.values_digest}


def profile(
    model: nn.Module,
    data: Dataset,
    *,
    at: str = "activations:**",
    batch_size: int = 128,
    progress: Progress | None = None,
) -> Bounds:
    """Run ``model`` over ``data`` and return the range of every selected activation.

    Args:
        model: run in evaluation mode; unchanged.
        data: clean and representative; what it does not show, a guard will clamp.
        at: selection of ``activations`` sites.

    Raises:
        InvalidConfig: the model does not take the data, a selected site is not an activation, or gives NaN or infinity
            on clean data.
        NoSuchSite: nothing matches, or a site stayed silent.
    """
    if len(data) == 0:
        raise InvalidConfig("profiling needs at least one image")
    require_fit(model, data, labels=False)
    found = select(model, at, data.example)
    if wrong := [site.address for site in found if site.kind != "activations"]:
        raise InvalidConfig(
            f"only activations have a range to profile, not {wrong[0]}", hint="for example activations:**"
        )
    seen = {site.name: _Range(site.name) for site in found}
    with tap(model, {name: item.watch for name, item in seen.items()}):
        pass_over(model, data, batch_size=batch_size, progress=progress)
    return Bounds({name: item.result() for name, item in seen.items()}, data.digest, values_digest(model))


@dataclass
class _Range:
    site: str
    low: float = math.inf
    high: float = -math.inf
    count: int = 0
    watch: Callable[[Tensor], Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.watch = self._update

    def _update(self, output: Tensor) -> Tensor:
        low, high = map(float, torch.aminmax(output.detach()))
        if not (math.isfinite(low) and math.isfinite(high)):
            raise InvalidConfig(
                f"{self.site} gives NaN or infinity on clean data", hint="check the weights and the data"
            )
        self.low, self.high = min(self.low, low), max(self.high, high)
        self.count += output.numel()
        return output

    def result(self) -> tuple[float, float, int]:
        if not self.count:
            raise NoSuchSite(f"{self.site} did not compute on this data")
        return self.low, self.high, self.count
