"""Cells that hold one value whatever is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from holdfast.errors import InvalidConfig
from holdfast.execution.condition import Flips, Population, faults
from holdfast.faults.addresses import NOTHING, changes_at
from holdfast.faults.marks import coins
from holdfast.faults.rates import check_rate, errors, per_site
from holdfast.seeds import Seed, derive

_VALUES = ("0", "1", "random")


@faults.register("stuck-at")
@dataclass(frozen=True, slots=True, kw_only=True)
class StuckAt:
    """Each stored bit is stuck with probability ``rate``, and flips if and only if it is stuck at the other value.

    The stuck cells are those in which :class:`BitErrors` of the same rate and seed errs: a cell that is stuck at one
    rate is stuck, at the same value, at every higher one. With ``value="random"`` a fair coin, tossed once per cell,
    says where it is stuck, so a stored bit flips with probability ``rate / 2``, whatever it is. The model is the
    classic one of permanent faults in memory tests; a site's faults depend on the seed and its address alone.
    """

    rate: float  # stuck cells per bit, 0..1
    value: Literal["0", "1", "random"] = "random"

    def __post_init__(self) -> None:
        check_rate(self.rate, "rate of stuck cells")
        if isinstance(self.value, bool) or str(self.value) not in _VALUES:
            raise InvalidConfig(f"a cell is not stuck at {self.value!r}", hint=f"choose one of {', '.join(_VALUES)}")
        object.__setattr__(self, "value", str(self.value))  # a configuration file may hold the number

    def flips(self, population: Population, seed: Seed) -> list[Flips]:
        """Return the bits that chip ``seed`` sets (``rise``) and clears (``fall``)."""
        rise, fall = [NOTHING], [NOTHING]
        for site, start, own in per_site(population, seed):
            cells = errors(site.population, self.rate, own)
            high = self._high(cells, own)
            rise.append(start + cells[high])
            fall.append(start + cells[~high])
        return changes_at(population, rise=np.concatenate(rise), fall=np.concatenate(fall))

    def _high(self, cells: np.ndarray, seed: Seed) -> np.ndarray:
        if self.value == "random":
            return coins(derive(seed, "stuck"), cells)
        return np.full(len(cells), self.value == "1")
