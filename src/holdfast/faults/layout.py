"""Layouts: in which bank, row and column of a memory the bits of a population lie.

A memory is dies of ``banks`` x ``rows`` x ``columns`` cells. A cell has a number: columns of a row first, then rows,
then banks, then dies, as many as a population fills. A layout is a bijection between the bits of a population, counted
from the first site on, and the cells that hold data; all arithmetic is int64. As text it is
``name/BANKSxROWSxCOLUMNS/key=value/...``, for example ``interleaved/8x512x64/stripe=32/offset=1000``.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from holdfast._registry import coerce, unknown
from holdfast.errors import InvalidConfig
from holdfast.faults.rates import check_count

DEFAULT = "linear/1x512x64"  # one of the 32 SRAM arrays of Stutz et al., MLSys 2021
_MOST = 2**40  # cells of a die
_MOST_BITS = 2**44  # of a population that any layout must have room for
_LAST = 2**62  # cells are counted in int64


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The layout ``linear``: bit n of the population lies in cell ``offset + n``."""

    banks: int = 1
    rows: int = 512
    columns: int = 64  # cells of a row
    offset: int = 0  # data cells before the first bit

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            least = 0 if field.name in ("offset", "check") else 1
            check_count(getattr(self, field.name), f"{field.name} of a layout", least=least, most=2**60)
        if self.die > _MOST:
            raise InvalidConfig(f"a die of {self.die} cells is too large", hint=f"at most {_MOST}")
        self._check()
        self.extent(_MOST_BITS)

    @property
    def bank(self) -> int:
        """Cells of a bank."""
        return self.rows * self.columns

    @property
    def die(self) -> int:
        """Cells of a die."""
        return self.banks * self.bank

    def extent(self, bits: int) -> int:
        """Return the number of cells, in whole banks, among which a population of so many ``bits`` lies.

        Raises:
            InvalidConfig: more cells than int64 can count.
        """
        cells = -(-self._filled(self.offset + int(bits)) // self._unit) * self._unit if bits else 0
        if cells > _LAST:
            raise InvalidConfig(f"{bits} bits in this layout reach beyond cell 2**62", hint="a smaller offset or check")
        return cells

    @property
    def _unit(self) -> int:
        return self.bank  # what is full before the next one begins

    def _filled(self, places: int) -> int:
        return places

    def cells(self, bits: np.ndarray) -> np.ndarray:
        """Return the cell of each bit of the population (both int64, shape (n,))."""
        return self._cells(bits + self.offset)

    def bits(self, cells: np.ndarray) -> np.ndarray:
        """Return the bit of the population in each cell (both int64, shape (n,)), negative where there is none."""
        place = self._places(cells)
        return np.where(place < 0, np.int64(-1), place - self.offset)

    def _check(self) -> None:
        """Refuse parameters that do not fit together."""

    def _cells(self, place: np.ndarray) -> np.ndarray:
        return place

    def _places(self, cells: np.ndarray) -> np.ndarray:
        return cells


@dataclass(frozen=True, kw_only=True)
class Interleaved(Layout):
    """Runs of ``stripe`` bits go round the banks."""

    stripe: int = 64

    def _check(self) -> None:
        _divides(self.stripe, self.bank, "a stripe", "a bank")

    @property
    def _unit(self) -> int:
        return self.die

    def _cells(self, place: np.ndarray) -> np.ndarray:
        stripe, inside = np.divmod(place, self.stripe)
        die, stripe = np.divmod(stripe, self.die // self.stripe)
        turn, bank = np.divmod(stripe, self.banks)
        cells: np.ndarray = die * self.die + bank * self.bank + turn * self.stripe + inside
        return cells

    def _places(self, cells: np.ndarray) -> np.ndarray:
        die, cell = np.divmod(cells, self.die)
        bank, within = np.divmod(cell, self.bank)
        turn, inside = np.divmod(within, self.stripe)
        place: np.ndarray = die * self.die + (turn * self.banks + bank) * self.stripe + inside
        return place


@dataclass(frozen=True, kw_only=True)
class Multiplexed(Layout):
    """The bits of a word are spread over a row, so that neighbours in the row belong to different words."""

    word: int = 8

    def _check(self) -> None:
        _divides(self.word, self.columns, "a word", "a row")

    def _cells(self, place: np.ndarray) -> np.ndarray:
        row, column = np.divmod(place, self.columns)
        word, bit = np.divmod(column, self.word)
        cells: np.ndarray = row * self.columns + bit * (self.columns // self.word) + word
        return cells

    def _places(self, cells: np.ndarray) -> np.ndarray:
        row, column = np.divmod(cells, self.columns)
        bit, word = np.divmod(column, self.columns // self.word)
        place: np.ndarray = row * self.columns + word * self.word + bit
        return place


@dataclass(frozen=True, kw_only=True)
class Tiled(Layout):
    """Tiles of ``height`` rows and ``width`` columns are filled one after the other, row by row within each."""

    height: int = 8
    width: int = 8

    def _check(self) -> None:
        _divides(self.height, self.rows, "the height of a tile", "the rows of a bank")
        _divides(self.width, self.columns, "the width of a tile", "a row")

    def _cells(self, place: np.ndarray) -> np.ndarray:
        tile, inside = np.divmod(place, self.height * self.width)
        down, across = np.divmod(tile, self.columns // self.width)  # tiles of a column, over all banks and dies
        row, column = np.divmod(inside, self.width)
        cells: np.ndarray = (down * self.height + row) * self.columns + across * self.width + column
        return cells

    def _places(self, cells: np.ndarray) -> np.ndarray:
        line, column = np.divmod(cells, self.columns)
        down, row = np.divmod(line, self.height)
        across, column = np.divmod(column, self.width)
        tile = down * (self.columns // self.width) + across
        return (tile * self.height + row) * self.width + column


@dataclass(frozen=True, kw_only=True)
class EccWords(Layout):
    """Every ``data`` bits are followed by ``check`` cells of an error-correcting code, which hold none of the bits."""

    data: int = 64
    check: int = 8

    def _filled(self, places: int) -> int:
        return -(-places // self.data) * (self.data + self.check)

    def _cells(self, place: np.ndarray) -> np.ndarray:
        word, bit = np.divmod(place, self.data)
        return word * (self.data + self.check) + bit

    def _places(self, cells: np.ndarray) -> np.ndarray:
        word, bit = np.divmod(cells, self.data + self.check)
        return np.where(bit < self.data, word * self.data + bit, np.int64(-1))


def _divides(part: int, whole: int, name: str, other: str) -> None:
    if whole % part:
        raise InvalidConfig(f"{name} of {part} does not divide {other} of {whole}", hint="choose a divisor")


LAYOUTS: dict[str, type[Layout]] = {
    "ecc": EccWords,
    "interleaved": Interleaved,
    "linear": Layout,
    "multiplexed": Multiplexed,
    "tiled": Tiled,
}


def layout_of(text: str) -> Layout:
    """Return the layout that ``name/BANKSxROWSxCOLUMNS/key=value/...`` writes; all but the name may be left out.

    Raises:
        UnknownName: no layout of this name.
        InvalidConfig: a key or a value that the layout does not take, or sizes that do not fit together.
    """
    name, *parts = text.split("/")
    if name not in LAYOUTS:
        raise unknown("layout", name, LAYOUTS)
    options: dict[str, str] = {}
    for number, part in enumerate(parts):
        if number == 0 and "=" not in part:
            options |= _geometry(part, text)
            continue
        key, equals, value = part.partition("=")
        if not equals or key in options:
            raise InvalidConfig(f"cannot read {part!r} in the layout {text!r}", hint=_GRAMMAR)
        options[key] = value
    return LAYOUTS[name](**coerce(LAYOUTS[name], options, what=f"layout {name!r}"))


_GRAMMAR = "write name/BANKSxROWSxCOLUMNS/key=value, for example tiled/1x512x64/height=8"


def _geometry(part: str, text: str) -> dict[str, str]:
    sizes = part.split("x")
    if len(sizes) != 3:
        raise InvalidConfig(f"cannot read {part!r} in the layout {text!r}", hint=_GRAMMAR)
    return dict(zip(("banks", "rows", "columns"), sizes, strict=True))
