"""The hardened identity of MaxiMals (Roquet et al., DAC 2024), and the census of places that its code finds."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.errors import InvalidConfig
from holdfast.hardening.guards.range_guard import by_sample, require_fit
from holdfast.models.guard import guards


@guards.register("hardened-identity")
class HardenedIdentityGuard:
    """y = clamp(nan_to_num(x, nan=0, posinf=high, neginf=low), low, high), out of place, as published.

    What made x keeps its values: only readers of the identity see y. The published layer counts nothing; this one
    counts what it changed.

    Raises:
        InvalidConfig: bounds that are not finite and ordered, or that the dtype cannot hold.
    """

    kind = "hardened-identity"
    replaces = True

    def __init__(self, site: str, low: float, high: float) -> None:
        if not (math.isfinite(low) and math.isfinite(high) and low <= high):
            raise InvalidConfig(f"the range [{low}, {high}] of {site} is not finite and ordered")
        self.site, self.low, self.high = site, float(low), float(high)
        self.events: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """Return y, shape (batch, ...)."""
        require_fit(self.site, self.low, self.high, x.dtype)
        y = torch.clamp(torch.nan_to_num(x, nan=0.0, posinf=self.high, neginf=self.low), self.low, self.high)
        self.events = by_sample(y != x)
        return y

    def to_json(self) -> dict[str, Any]:
        """Return kind, site and bounds."""
        return {"kind": self.kind, "site": self.site, "low": self.low, "high": self.high}


def identity_census(model: nn.Module) -> tuple[str, ...]:
    """Return the paths of the ``nn.Identity`` objects that the published insertion replaces.

    It walks ``dir()`` of every module and compares exact types, so subclasses stay, and so do identities under a name
    that begins with a digit, as in ``nn.Sequential``, which ``nn.Module.__dir__`` hides. One object under two names is
    replaced twice.
    """
    return tuple(
        f"{path}.{name}" if path else name
        for path, module in model.named_modules(remove_duplicate=False)
        for name, child in module._modules.items()
        if type(child) is nn.Identity and not name[:1].isdigit()
    )
