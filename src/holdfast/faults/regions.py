"""Faults with the structure of a memory: rows, columns and banks that fail or are weak as a whole.

Field studies of DRAM find faults of a bit, a row, a column or a bank (Sridharan and Liberty, SC 2012), and weak cells
of undervolted memories cluster along columns (Stutz et al., MLSys 2021, appendix, chips 2 and 3; Koppula et al., EDEN,
MICRO 2019). These laws see the population as one memory, filled from its first bit on in the order of a layout: what
fails therefore depends on the order of the sites, unlike for laws of single bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from holdfast.errors import InvalidConfig
from holdfast.execution.condition import Flips, Population, faults
from holdfast.faults.addresses import NOTHING, changes_at
from holdfast.faults.layout import DEFAULT, Layout, layout_of
from holdfast.faults.marks import below
from holdfast.faults.rates import check_finite, check_rate, errors
from holdfast.seeds import Seed, derive

Line = Literal["row", "column", "bank"]
_CHUNK = 2**20  # bits at once


@faults.register("line-failures")
@dataclass(frozen=True, slots=True, kw_only=True)
class LineFailures:
    """Each row (column, bank) of the memory fails with probability ``rate``, and then a ``share`` of its bits flips.

    A failing line reads noise by default: half of its bits, drawn independently, flip. Lines that fail at a lower rate
    fail at a higher one, and the bits that flip at a smaller share flip at a larger.
    """

    rate: float  # failing lines per line, 0..1
    line: Line = "row"
    share: float = 0.5  # flips per bit of a failing line, 0..1
    layout: str = DEFAULT  # see holdfast.faults.layout

    def __post_init__(self) -> None:
        check_rate(self.rate, f"rate of failing {self.line}s")
        check_rate(self.share, "share of flips")
        _check_line(self.line)
        layout_of(self.layout)

    def flips(self, population: Population, seed: Seed) -> list[Flips]:
        """Return the flips of chip ``seed``."""
        layout = layout_of(self.layout)
        failing = errors(lines(layout, self.line, population.bits), self.rate, derive(seed, "lines"))
        cells = _whole(layout, self.line, failing, population.bits)
        cells = cells[below(derive(seed, "cells"), cells, self.share)]
        return changes_at(population, flip=within(layout, cells, population))


@faults.register("regional-errors")
@dataclass(frozen=True, slots=True, kw_only=True)
class RegionalErrors:
    """Bit errors at an average rate of ``rate`` that are ``factor`` times as frequent in weak rows (columns, banks).

    Each region is weak with probability ``weak``, for life. Outside weak regions a bit flips with probability
    ``rate / (1 - weak + weak * factor)``, inside with ``factor`` times that; so over all chips a bit flips with
    probability ``rate``, and the law compares with ``bit-errors`` of that rate. The errors of a lower rate are a subset
    of those of a higher one, all else equal.
    """

    rate: float  # per bit, on average, 0..1
    line: Line = "column"
    weak: float = 0.05  # of the regions, 0..1
    factor: float = 20.0  # >= 0
    layout: str = DEFAULT  # see holdfast.faults.layout

    def __post_init__(self) -> None:
        check_rate(self.rate)
        check_rate(self.weak, f"share of weak {self.line}s")
        check_finite(self.factor, "the factor of weak regions")
        _check_line(self.line)
        layout_of(self.layout)
        if self.factor < 0 or max(self._rates()) > 1:
            hint = "choose a factor from 0, and a smaller one at a high rate"
            raise InvalidConfig(f"weak regions cannot have {self.factor} times the errors of the others", hint=hint)

    def flips(self, population: Population, seed: Seed) -> list[Flips]:
        """Return the flips of chip ``seed``."""
        layout = layout_of(self.layout)
        strong, weak = self._rates()
        count, size = lines(layout, self.line, population.bits), length(layout, self.line)
        regions = errors(count, self.weak, derive(seed, "weak regions"))
        cells = errors(count * size, strong, derive(seed, "strong"))
        cells = cells[~np.isin(line_of(layout, self.line, cells), regions)]
        # the weak regions, laid side by side, are one small memory with a chip of its own
        region, inside = np.divmod(errors(len(regions) * size, weak, derive(seed, "weak")), size)
        cells = np.concatenate([cells, cells_of(layout, self.line, regions[region], inside)])
        return changes_at(population, flip=within(layout, cells, population))

    def _rates(self) -> tuple[float, float]:
        mean = 1 - self.weak + self.weak * self.factor
        strong = self.rate / mean if mean else 0.0
        return strong, strong * self.factor


@faults.register("line-rates")
@dataclass(frozen=True, slots=True, kw_only=True)
class LineRates:
    """Bit errors at a rate of its own in each row (column, bank): line n has the n-th of ``rates``, over and over.

    For a memory whose banks, or other parts, were measured apart. The errors of lower rates are a subset of those of
    higher ones, line by line.
    """

    rates: str  # per bit, 0..1 each: rate/rate/...
    line: Line = "bank"
    layout: str = DEFAULT  # see holdfast.faults.layout

    def __post_init__(self) -> None:
        _check_line(self.line)
        layout_of(self.layout)
        self._rates()

    def flips(self, population: Population, seed: Seed) -> list[Flips]:
        """Return the flips of chip ``seed``."""
        found = errors_by_line(population, layout_of(self.layout), self.line, self._rates(), seed)
        return changes_at(population, flip=found)

    def _rates(self) -> tuple[float, ...]:
        try:
            rates = tuple(float(part) for part in self.rates.split("/"))
        except (ValueError, AttributeError):
            hint = "write rate/rate/..., for example 0.001/0.002"
            raise InvalidConfig(f"cannot read the rates {self.rates!r}", hint=hint) from None
        for rate in rates:
            check_rate(rate)
        return rates


def errors_by_line(
    population: Population, layout: Layout, line: Line, rates: tuple[float, ...], seed: Seed
) -> np.ndarray:
    """Return the errors (int64 addresses) of a memory whose line n errs at ``rates[n % len(rates)]``.

    The lines of one rate, laid side by side, are a memory with a chip of its own.
    """
    count, size, found = lines(layout, line, population.bits), length(layout, line), [NOTHING]
    for place, rate in enumerate(rates):
        turns = len(range(place, count, len(rates)))
        turn, inside = np.divmod(errors(turns * size, rate, derive(seed, "line", place)), size)
        found.append(within(layout, cells_of(layout, line, place + turn * len(rates), inside), population))
    return np.concatenate(found)


def lines(layout: Layout, line: Line, bits: int) -> int:
    """Return how many rows, columns or banks a population of so many ``bits`` occupies, in whole dies."""
    return layout.extent(bits) // length(layout, line)


def length(layout: Layout, line: Line) -> int:
    """Return the number of cells of a row, column or bank; a column is one of a bank."""
    return {"row": layout.columns, "column": layout.rows, "bank": layout.bank}[line]


def line_of(layout: Layout, line: Line, cells: np.ndarray) -> np.ndarray:
    """Return the number of the row, column or bank of each cell (both int64)."""
    if line == "column":
        return np.asarray(cells // layout.bank * layout.columns + cells % layout.columns)
    return np.asarray(cells // length(layout, line))


def cells_of(layout: Layout, line: Line, number: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Return cell ``inside`` of row, column or bank ``number``; both are int64, and broadcast."""
    if line == "column":
        bank, column = np.divmod(number, layout.columns)
        return np.asarray(bank * layout.bank + inside * layout.columns + column)
    return np.asarray(number * length(layout, line) + inside)


def _whole(layout: Layout, line: Line, number: np.ndarray, bits: int) -> np.ndarray:
    """Return the cells of the given lines, or of those only that hold one of so many ``bits`` where these are fewer."""
    size = length(layout, line)
    if len(number) * size <= bits:
        return cells_of(layout, line, number[:, None], np.arange(size)).ravel()
    found = [NOTHING]
    for start in range(0, bits, _CHUNK):
        cells = layout.cells(np.arange(start, min(bits, start + _CHUNK)))
        found.append(cells[np.isin(line_of(layout, line, cells), number)])
    return np.concatenate(found)


def within(layout: Layout, cells: np.ndarray, population: Population) -> np.ndarray:
    """Return the bits of ``population`` in the given cells, leaving out cells that hold none."""
    bits = layout.bits(cells)
    return bits[(bits >= 0) & (bits < population.bits)]


def _check_line(line: str) -> None:
    if line not in get_args(Line):
        raise InvalidConfig(f"a memory has no lines called {line!r}", hint=f"choose one of {', '.join(get_args(Line))}")
