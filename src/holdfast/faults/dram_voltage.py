"""DRAM at reduced voltage: how many cache lines, and how many bits of each bank, fail in measured modules.

Both laws read tables of 31 and 32 DDR3L modules (Chang et al., *Understanding Reduced-Voltage Operation in Modern DRAM
Devices*, POMACS 2017). The tables count failures and do not say where they are: the number is measured, the places are
drawn. A module has 2**25 cache lines of 64 bytes, since the smallest share in the table is one in so many.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import zlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from holdfast._files import read_bytes
from holdfast.errors import InvalidConfig, UnreadableArtifact
from holdfast.execution.condition import Flips, Population, faults
from holdfast.faults.addresses import NOTHING, changes_at
from holdfast.faults.layout import layout_of
from holdfast.faults.marks import words
from holdfast.faults.rates import check_count, check_finite, check_rate, errors, per_site
from holdfast.faults.regions import errors_by_line
from holdfast.seeds import Seed, derive

LINE = 512  # bits of a cache line
BANKS = 8
_BANK_BITS = 2**25 * LINE // BANKS
_LIMIT = 2**26  # bytes of a table, as it is and unpacked
_LINES = ("dimm_name", "vdd", "vendor", "error_cacheline_percent")
_COUNTS = tuple(f"bank{bank}_bit_err_count" for bank in range(BANKS))
_RETENTION = ("dimm_name", "vendor", "vdd", "temperature(C)", "refresh_interval(ms)", *_COUNTS)


@dataclass(frozen=True, kw_only=True)
class _Measured(ABC):
    """A law of a table: ``path`` is a csv file, gzipped or not."""

    path: str
    dimm: str  # name of the module, such as B2
    voltage: float  # volt

    def __post_init__(self) -> None:
        check_finite(self.voltage, "a voltage")
        data = read_bytes(self.path, "table of a memory", limit=_LIMIT)
        # read once: what a campaign describes by its digest is what it injects, whatever becomes of the file
        object.__setattr__(self, "_rates", self._read(_rows(data, self.path)))
        object.__setattr__(self, "_digest", f"sha256:{hashlib.sha256(data).hexdigest()}")

    @property
    def rates(self) -> tuple[float, ...]:
        """What the table says: one rate, or one per bank."""
        rates: tuple[float, ...] = self._rates  # type: ignore[attr-defined]
        return rates

    @property
    def digest(self) -> str:
        """``sha256:`` of the file that was read."""
        digest: str = self._digest  # type: ignore[attr-defined]
        return digest

    @abstractmethod
    def _read(self, rows: list[dict[str, str]]) -> tuple[float, ...]:
        """Return what the rows of the file say."""


@faults.register("dram-voltage")
@dataclass(frozen=True, kw_only=True)
class DramVoltage(_Measured):
    """Each cache line of 64 bytes fails with the probability that was measured for a module at a voltage.

    In a failing line ``bits`` different bits flip; the table does not say how many do, so their number is yours. Lines
    that fail at one share of failing lines fail at any higher one, in the same bits. A site's lines start at its first
    bit, and depend on the seed and its address alone.
    """

    bits: int = 1  # flips per failing line, 1..512

    def __post_init__(self) -> None:
        check_count(self.bits, "the number of flips in a cache line", most=LINE)
        _Measured.__post_init__(self)

    def flips(self, population: Population, seed: Seed) -> list[Flips]:
        """Return the flips of chip ``seed``."""
        found = [NOTHING]
        for site, start, own in per_site(population, seed):
            line = errors(-(-site.population // LINE), self.rates[0], own)
            hit = (line[:, None] * LINE + _distinct(line, self.bits, derive(own, "bits"))).ravel()
            found.append(start + hit[hit < site.population])
        return changes_at(population, flip=np.concatenate(found))

    def _read(self, rows: list[dict[str, str]]) -> tuple[float, ...]:
        row = _only(rows, _LINES, {"dimm_name": self.dimm, "vdd": self.voltage}, self.path)[0]
        return (_rate(_number(row["error_cacheline_percent"], self.path) / 100, self.path),)


@faults.register("dram-retention")
@dataclass(frozen=True, kw_only=True)
class DramRetention(_Measured):
    """Bits whose charge leaks away before the refresh, at the rate measured for each of eight banks of a module.

    The population lies in eight banks as ``layout`` says, and a bank's bits fail independently, at the mean of the
    counts that the table has for the bank under these conditions. All else equal, the errors of a lower rate are a
    subset of those of a higher. Which value a leaking cell loses is not in the table: it flips.
    """

    temperature: float = 20.0  # degrees Celsius: 20 or 70
    interval: float = 2048.0  # ms between refreshes
    layout: str = "interleaved/8x65536x8192"  # of eight banks, see holdfast.faults.layout

    def __post_init__(self) -> None:
        if layout_of(self.layout).banks != BANKS:
            raise InvalidConfig(f"the modules have {BANKS} banks, not those of {self.layout!r}")
        check_finite(self.temperature, "a temperature")
        check_finite(self.interval, "an interval of refresh")
        _Measured.__post_init__(self)

    def flips(self, population: Population, seed: Seed) -> list[Flips]:
        """Return the flips of chip ``seed``."""
        found = errors_by_line(population, layout_of(self.layout), "bank", self.rates, seed)
        return changes_at(population, flip=found)

    def _read(self, rows: list[dict[str, str]]) -> tuple[float, ...]:
        wanted: dict[str, str | float] = {"dimm_name": self.dimm, "vdd": self.voltage}
        wanted |= {"temperature(C)": self.temperature, "refresh_interval(ms)": self.interval}
        found = _only(rows, _RETENTION, wanted, self.path)
        means = (sum(_number(row[name], self.path) for row in found) / len(found) for name in _COUNTS)
        return tuple(_rate(mean / _BANK_BITS, self.path) for mean in means)


def _distinct(line: np.ndarray, count: int, seed: Seed) -> np.ndarray:
    """Return ``count`` different numbers below 512 per line (int64, shape (n, count)), by Floyd's algorithm."""
    chosen = np.empty((len(line), count), np.int64)
    for place, last in enumerate(range(LINE - count, LINE)):
        drawn = (words(derive(seed, place), line).view(np.uint64) % np.uint64(last + 1)).astype(np.int64)
        taken = (chosen[:, :place] == drawn[:, None]).any(1)
        chosen[:, place] = np.where(taken, last, drawn)
    return chosen


def _rows(data: bytes, path: Path | str) -> list[dict[str, str]]:
    try:
        if data[:2] == b"\x1f\x8b":
            data = gzip.GzipFile(fileobj=io.BytesIO(data)).read(_LIMIT + 1)
        if len(data) > _LIMIT:
            raise ValueError(f"it is longer than {_LIMIT} bytes")
        return list(csv.DictReader(io.StringIO(data.decode(), newline=""), strict=True))
    except (OSError, EOFError, zlib.error, ValueError, csv.Error) as error:
        raise UnreadableArtifact(f"{path} is no table of a memory: {error}") from error


def _only(
    rows: list[dict[str, str]], columns: tuple[str, ...], wanted: dict[str, str | float], path: Path | str
) -> list[dict[str, str]]:
    """Return the rows that have the ``wanted`` values; say which there are when none has."""
    if not rows or not set(columns) <= set(rows[0]) or any(None in row or None in row.values() for row in rows):
        hint = f"its columns are {', '.join(columns)}"
        raise UnreadableArtifact(f"{path} does not have the columns of this table", hint=hint)
    left = rows
    for name, value in wanted.items():
        found = [row for row in left if (row[name] if isinstance(value, str) else _number(row[name], path)) == value]
        if not found:
            known = sorted({row[name] for row in left if row[name].strip()})
            raise InvalidConfig(f"nothing was measured at {name} = {value}", hint=f"measured: {', '.join(known[:40])}")
        left = found
    return left


def _number(text: str, path: Path | str) -> float:
    try:
        value = float(text)
        check_finite(value, "an entry of the table")
    except ValueError as error:  # a number that is not finite is one, too
        raise UnreadableArtifact(f"{path} has {text!r} where a number should be") from error
    return value


def _rate(value: float, path: Path | str) -> float:
    try:
        check_rate(value)
    except InvalidConfig as error:
        raise UnreadableArtifact(f"{path}: {error}") from error
    return value
