"""What a corruption is composed of: a pattern says where in a tensor, a value says what becomes of the elements."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from holdfast._registry import Registry
from holdfast.execution.condition import Flips
from holdfast.models.site import Site
from holdfast.seeds import Seed


@dataclass(frozen=True)
class Region:
    """Part of a site.

    Attributes:
        index: flat elements, int64, (n,), ascending, each once.
        bits: int64, (n,), the bits of each element that belong to it; None where whole elements do.
        anchor: the bit (of the anchor's element) that was drawn.
    """

    index: np.ndarray
    bits: np.ndarray | None = None
    anchor: int = 0


@runtime_checkable
class Pattern(Protocol):
    """Where: a frozen dataclass."""

    def region(self, site: Site, element: int, bit: int, seed: Seed) -> Region:
        """Return what is hit around a bit of an element, drawn uniformly; it holds that element."""
        ...


@runtime_checkable
class Value(Protocol):
    """What: a frozen dataclass."""

    def changes(self, site: Site, region: Region, seed: Seed) -> Flips:
        """Return what becomes of the elements of ``region``."""
        ...


patterns: Registry[Pattern] = Registry("pattern", "holdfast.patterns")
values: Registry[Value] = Registry("value", "holdfast.values")
