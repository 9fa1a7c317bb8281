"""What an attack has spent of its budget so far."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from holdfast.errors import InvalidConfig
from holdfast.faults.adversarial.budget import Budget, LinearMemory
from holdfast.faults.adversarial.changes import Place
from holdfast.models.site import Site


class Ledger:
    """Flips entered one by one, none of which the budget forbids.

    Attributes:
        rows: DRAM rows touched so far.
    """

    def __init__(self, budget: Budget, memory: LinearMemory) -> None:
        self.budget = budget
        self.memory = memory
        self.rows: set[int] = set()
        self._places: set[tuple[Site, int, int]] = set()
        self._weights: set[tuple[Site, int]] = set()

    @property
    def bits_left(self) -> int:
        """Bits that may still be flipped."""
        return self.budget.bits - len(self._places)

    @property
    def rows_full(self) -> bool:
        """Whether no further row may be opened."""
        return self.budget.rows is not None and len(self.rows) >= self.budget.rows

    def affords(self, site: Site, element: int, bit: int) -> bool:
        """Say whether this bit may be flipped too; a bit is flipped once only."""
        if self.bits_left < 1 or (site, element, bit) in self._places:
            return False
        if self.budget.one_per_weight and (site, element) in self._weights:
            return False
        return not self.rows_full or self.memory.row(site, element, bit) in self.rows

    def spend(self, site: Site, places: Iterable[Place]) -> None:
        """Enter flips of one site.

        Raises:
            InvalidConfig: the budget does not allow one of them.
        """
        for element, bit in places:
            if not self.affords(site, element, bit):
                raise InvalidConfig(f"bit {bit} of element {element} of {site.address} is beyond the budget")
            self._places.add((site, element, bit))
            self._weights.add((site, element))
            self.rows.add(self.memory.row(site, element, bit))

    def choose(self, site: Site, ordered: Iterable[Place], count: int) -> list[Place]:
        """Return the first ``count`` of the bits in ``ordered`` that may be flipped together, or fewer."""
        trial = self._fork()
        chosen: list[Place] = []
        for element, bit in ordered:
            if len(chosen) == count:
                break
            if trial.affords(site, element, bit):
                trial.spend(site, [(element, bit)])
                chosen.append((element, bit))
        return chosen

    def reachable(self, site: Site) -> Tensor | None:
        """Return the elements (int64, ascending) with a bit in a row that may be touched; None stands for all."""
        if not self.rows_full:
            return None
        start, width, row = self.memory.starts[site], site.bits, self.memory.row_bits
        ends = [((r * row - start) // width, -((start - (r + 1) * row) // width)) for r in sorted(self.rows)]
        parts = [
            torch.arange(max(low, 0), min(high, site.numel)) for low, high in ends if low < site.numel and high > 0
        ]
        return torch.cat(parts).unique() if parts else torch.empty(0, dtype=torch.int64)

    def spent(self, site: Site) -> list[int]:
        """Return the elements of a site that have a flip."""
        return sorted(element for other, element in self._weights if other == site)

    def open(self, site: Site, elements: Tensor) -> Tensor:
        """Return, bool (n, bits), which bits of ``elements`` (int64, (n,)) may be flipped, each taken by itself."""
        device = elements.device
        allowed = torch.full((len(elements), site.bits), self.bits_left > 0, device=device)
        if self.rows_full:
            rows = self.memory.rows(site, elements.unsqueeze(1), torch.arange(site.bits, device=device))
            allowed &= torch.isin(rows, torch.tensor(sorted(self.rows), device=device))
        for other, element, bit in self._places:
            if other == site:
                allowed[elements == element, slice(None) if self.budget.one_per_weight else bit] = False
        return allowed

    def _fork(self) -> Ledger:
        copy = Ledger(self.budget, self.memory)
        copy.rows, copy._places, copy._weights = set(self.rows), set(self._places), set(self._weights)
        return copy
