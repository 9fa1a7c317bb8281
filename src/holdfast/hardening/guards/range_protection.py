"""Range guards at every branch output, residual sum and logit, with bounds from a calibration."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from holdfast.data import Dataset
from holdfast.errors import InvalidConfig
from holdfast.hardening.binding import require_same_values
from holdfast.hardening.calibration import Calibration, SiteRange, calibrate
from holdfast.hardening.guards.range_guard import RangeGuard, RecomputingRangeGuard, require_fit
from holdfast.hardening.harden import methods
from holdfast.hardening.placement import place
from holdfast.models import select
from holdfast.models.tap import require_place

_log = logging.getLogger(__name__)

Action = Literal["clip", "zero", "resample", "recompute"]
PLACED, BRANCHES = "placed", "branches"


@dataclass(frozen=True, kw_only=True)
class RangeProtection:
    """Range guards at every calibrated site.

    Attributes:
        calibration: from :func:`holdfast.hardening.calibrate`.
        slack: factor, at least 1, by which each bound moves away from the values seen.
        action: what becomes of a value outside: ``clip`` to the nearest bound, ``zero``, ``resample`` from the golden
            mean, or ``recompute`` the operation once and clip, with an alarm, what is still outside.
        nan: ``zero`` treats NaN as ``action`` says, ``clip`` taking it for 0; ``keep`` lets it pass.
    """

    calibration: Calibration
    slack: float = 1.3
    action: Action = "clip"
    nan: Literal["zero", "keep"] = "zero"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.slack) and self.slack >= 1):
            raise InvalidConfig(f"slack widens a range, so it is at least 1, not {self.slack}", hint="the usual is 1.3")

    def guards(self, model: nn.Module) -> list[RangeGuard]:
        """Return one guard for each calibrated site.

        Raises:
            DigestMismatch: the calibration is of another model.
            InvalidConfig: widened bounds that the dtype of their site cannot hold.
            NoSuchSite: the model computes no such site.
        """
        require_same_values(model, self.calibration.values_digest)
        for site in self.calibration.sites:
            require_place(model, site)
        return [self._guard(site, found) for site, found in self.calibration.sites.items()]

    def _guard(self, site: str, found: SiteRange) -> RangeGuard:
        low, high = _widened(found.low, -self.slack), _widened(found.high, self.slack)
        one = found.dim is None
        bounds = [_of_dtype(low, found.dtype, -math.inf), _of_dtype(high, found.dtype, math.inf)]
        require_fit(site, low.tolist(), high.tolist(), found.dtype)
        low_, high_, mean = (item[0] if one else item for item in (*bounds, found.mean.tolist()))
        if self.action == "recompute":
            return RecomputingRangeGuard(site, low_, high_, dim=found.dim, nan=self.nan)
        resampled = mean if self.action == "resample" else None
        return RangeGuard(site, low_, high_, dim=found.dim, action=self.action, mean=resampled, nan=self.nan)

    def describe(self) -> dict[str, Any]:
        """Return the parameters; the bounds themselves are in the guards."""
        parameters = {"slack": self.slack, "action": self.action, "nan": self.nan, "sites": len(self.calibration.sites)}
        return {"method": "range"} | parameters | self.calibration.describe()


@methods.register("range")
@dataclass(frozen=True, slots=True, kw_only=True)
class RangeMethod:
    """Range guards ``per`` tensor, channel, token or element.

    ``at`` is ``placed`` (every branch output, residual sum and logit, found by graph analysis), ``branches`` (the same
    without the sums) or a selection of activations.
    """

    at: str = PLACED
    per: Literal["tensor", "channel", "token", "element"] = "tensor"
    action: Literal["clip", "zero", "resample", "recompute"] = "clip"
    nan: Literal["zero", "keep"] = "zero"
    slack: float = 1.3
    quantile: float = 1.0

    def calibrated(self, model: nn.Module, data: Dataset | None) -> RangeProtection:
        """Return the hardening with the ranges that ``data`` shows.

        Raises:
            InvalidConfig: no data, a slack below 1, or a quantile out of range.
        """
        if data is None:
            raise InvalidConfig("range guards learn their bounds from clean data", hint="pass calibration data")
        found = calibrate(model, data, guarded_sites(model, data, self.at), per=self.per, quantile=self.quantile)
        return RangeProtection(calibration=found, slack=self.slack, action=self.action, nan=self.nan)


def guarded_sites(model: nn.Module, data: Dataset, at: str) -> tuple[str, ...]:
    """Return the places that ``at`` means: ``placed`` or ``branches`` by graph analysis, or a selection of activations.

    Raises:
        InvalidConfig: a selection of something else.
        NoSuchSite: nothing matches.
    """
    if at in (PLACED, BRANCHES):
        found = place(model, data.example)
        if not found.branches:
            _log.warning("no residual sum was found, so only the logits are guarded: range:at=activations guards all")
        return found.sites if at == PLACED else tuple(dict.fromkeys((*found.branches, *found.logits)))
    selected = select(model, at, data.example)
    if wrong := [site.address for site in selected if site.kind != "activations"]:
        raise InvalidConfig(f"only activations have a range, not {wrong[0]}", hint="for example activations:**")
    return tuple(site.name for site in selected)


def _widened(bound: Tensor, slack: float) -> Tensor:
    """Move each bound outwards, down for a negative ``slack``: away from zero it grows, towards zero it shrinks."""
    outwards = (bound > 0) if slack > 0 else (bound < 0)
    return torch.where(outwards, bound * abs(slack), bound / abs(slack))


def _of_dtype(bound: Tensor, dtype: torch.dtype, towards: float) -> list[float]:
    """Round outwards to numbers of ``dtype``, lest a comparison in that dtype moves a bound inwards."""
    step = torch.finfo(dtype).eps if towards > 0 else -torch.finfo(dtype).eps
    rounded, outer = bound.to(dtype).double(), (bound + bound.abs() * step).to(dtype).double()
    short = rounded < bound if towards > 0 else rounded > bound
    return list(torch.where(short, outer, rounded).tolist())
