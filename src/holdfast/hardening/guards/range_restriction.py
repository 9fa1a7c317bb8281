"""Range restriction: values outside the profiled range of a site are brought back to it.

Chen, Li and Pattabiraman, "A Low-cost Fault Corrector for Deep Neural Networks through Range Restriction" (Ranger,
DSN 2021); the widening factor 1.3 and the treatment of NaN follow the MaxiMals study of vision transformers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from holdfast.data import Dataset
from holdfast.errors import InvalidConfig, NoSuchSite
from holdfast.hardening.binding import require_same_values
from holdfast.hardening.guards.range_guard import RangeGuard, require_fit
from holdfast.hardening.harden import methods
from holdfast.hardening.profile import Bounds, profile


@dataclass(frozen=True)
class RangeRestriction:
    """Clamp every profiled site to its range, widened by ``slack``.

    Attributes:
        bounds: from :func:`holdfast.profile`.
        slack: factor, at least 1, by which each bound moves away from the values seen.
    """

    bounds: Bounds
    slack: float = 1.3

    def __post_init__(self) -> None:
        if not (math.isfinite(self.slack) and self.slack >= 1):
            raise InvalidConfig(f"slack widens a range, so it is at least 1, not {self.slack}", hint="the usual is 1.3")

    def guards(self, model: nn.Module) -> list[RangeGuard]:
        """Return one guard for each profiled site.

        Raises:
            NoSuchSite: the bounds name modules that the model does not have.
            DigestMismatch: the bounds come from another model.
        """
        paths = {path for path, _ in model.named_modules()}
        for site in self.bounds.ranges:
            if _module_of(site) not in paths:
                raise NoSuchSite(f"the bounds name {site}, which this model does not have", hint="profile this model")
        require_same_values(model, self.bounds.values_digest)
        found = [self._guard(site, low, high) for site, (low, high, _) in self.bounds.ranges.items()]
        return [self._require_fit(model, guard) for guard in found]

    def _guard(self, site: str, low: float, high: float) -> RangeGuard:
        """Widen outwards: a bound on the far side of zero grows, one on the near side shrinks towards zero."""
        below = low * self.slack if low < 0 else low / self.slack
        above = high * self.slack if high > 0 else high / self.slack
        return RangeGuard(site=site, low=below, high=above)

    def _require_fit(self, model: nn.Module, guard: RangeGuard) -> RangeGuard:
        """Refuse at hardening what the numbers that the model computes in cannot hold."""
        dtype = next((item.dtype for item in model.parameters() if item.is_floating_point()), torch.float32)
        require_fit(guard.site, guard.low, guard.high, dtype)
        return guard

    def describe(self) -> dict[str, Any]:
        """Return the parameters; the bounds themselves are in the guards."""
        sites = len(self.bounds.ranges)
        return {
            "method": "range-restriction",
            "slack": self.slack,
            "sites": sites,
            "profile": self.bounds.data_digest,
        }


def _module_of(site: str) -> str:
    """Return the path of the module that computes ``site``: itself for ``a.b#1``, its owner for ``a/add``."""
    place = site.partition("#")[0]
    return place.rpartition("/")[0] if "/" in place else place


@methods.register("range-restriction")
@dataclass(frozen=True, slots=True, kw_only=True)
class RangeRestrictionMethod:
    """Range guards at the sites that ``at`` selects, with bounds from clean data, widened by ``slack``."""

    at: str = "activations:**"
    slack: float = 1.3

    def calibrated(self, model: nn.Module, data: Dataset | None) -> RangeRestriction:
        """Return the hardening with the ranges that ``data`` shows.

        Raises:
            InvalidConfig: no data, or a slack below 1.
        """
        if data is None:
            raise InvalidConfig("range restriction learns its bounds from clean data", hint="pass calibration data")
        return RangeRestriction(profile(model, data, at=self.at), slack=self.slack)
