"""Profiled chips: the errors of a memory that was measured cell by cell."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from holdfast.errors import InvalidConfig, UnreadableArtifact
from holdfast.execution.condition import Flips, Population, faults
from holdfast.faults.addresses import changes_at
from holdfast.faults.layout import Layout, layout_of
from holdfast.faults.map_file import ErrorMap, read_error_map
from holdfast.faults.rates import check_count, check_finite
from holdfast.faults.regions import within
from holdfast.seeds import Seed


@faults.register("error-map")
@dataclass(frozen=True, kw_only=True)
class ErrorMapErrors:
    """The errors of a measured chip: the population lies in its memory, and again from the start where that is full.

    Weights are mapped linearly from an offset, as in Stutz et al. (MLSys 2021). Without a fixed
    ``offset`` each seed draws one, uniform over the memory, so that a mean over seeds is their mean over offsets.
    A map of several voltages is read at the one that ``voltage`` names; its errors are a subset of those at a lower.

    Raises:
        UnreadableArtifact: the file is missing, damaged, or no error map.
        InvalidConfig: a voltage that was not measured, or a layout of another geometry than the map's.
    """

    path: str  # a map (see holdfast.faults.map_file), or a folder of maps of one voltage each
    voltage: float | None = None  # volt; None takes all cells of the map
    offset: int | None = None  # cells of data before the first bit; None draws it from the seed
    layout: str = "linear"  # see holdfast.faults.layout; without a geometry, the map's own

    def __post_init__(self) -> None:
        if self.voltage is not None:
            check_finite(self.voltage, "a voltage")
        chosen, digest = _chosen(Path(self.path), self.voltage)
        # read once: what a campaign describes by its digest is what it injects, whatever becomes of the file
        object.__setattr__(self, "_map", chosen)
        object.__setattr__(self, "_digest", digest)
        if self.offset is not None:
            check_count(self.offset, "the offset into this error map", least=0, most=chosen.cells - 1)
        self._layout(0)

    @property
    def map(self) -> ErrorMap:
        """The cells that fail at this voltage."""
        found: ErrorMap = self._map  # type: ignore[attr-defined]
        return found

    @property
    def deterministic(self) -> bool:
        """Whether every seed draws the same: this chip, from this offset."""
        return self.offset is not None

    @property
    def digest(self) -> str:
        """``sha256:`` of the file that was read."""
        digest: str = self._digest  # type: ignore[attr-defined]
        return digest

    def flips(self, population: Population, seed: Seed) -> list[Flips]:
        """Return the changes of the measured chip, from the offset that is fixed or that ``seed`` draws."""
        offset = seed.key % self.map.cells if self.offset is None else self.offset
        layout = self._layout(offset)
        again = np.arange(0, layout.extent(population.bits), layout.die)[:, None]  # the memory, as often as it takes
        columns = {}
        for name, direction in (("flip", 0), ("rise", 1), ("fall", -1)):
            cells = again + self.map.address[self.map.direction == direction]
            columns[name] = within(layout, cells.ravel(), population)
        return changes_at(population, **columns)

    def _layout(self, offset: int) -> Layout:
        sizes = "x".join(map(str, self.map.shape))
        text = f"{self.layout}/{sizes}" if "/" not in self.layout else self.layout
        layout = layout_of(text)
        if (layout.banks, layout.rows, layout.columns) != self.map.shape:
            hint = f"write {self.layout.split('/')[0]}/{sizes}"
            raise InvalidConfig(f"the map has {sizes} banks, rows and columns, not those of {self.layout!r}", hint=hint)
        return replace(layout, offset=layout.offset + offset)


def _chosen(path: Path, voltage: float | None) -> tuple[ErrorMap, str]:
    """Return the cells that fail at ``voltage``, and the digest of the file that says so."""
    files = sorted(path.glob("*.npz")) if path.is_dir() else [path]
    known = [read_error_map(file) for file in files]
    if not known:
        raise UnreadableArtifact(f"{path} holds no error maps", hint="name a file, or a folder of npz files")
    if voltage is None:
        if len(known) > 1:
            raise InvalidConfig(f"{path} holds {len(known)} error maps", hint="choose one by voltage=")
        return known[0]
    for found, digest in known:
        if any(abs(voltage - measured) < 1e-9 for measured in found.voltages):
            return found.at(voltage - 1e-9), digest
    measured = sorted({value for found, _ in known for value in found.voltages})
    hint = f"measured: {', '.join(f'{value:g}' for value in measured) or 'no voltages'}"
    raise InvalidConfig(f"{path} has no errors at {voltage:g} V", hint=hint)
