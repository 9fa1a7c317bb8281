"""One trial in flight: its golden pass, the cells in which it differs from it, and the flips that still wait."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from holdfast.errors import NoSuchSite
from holdfast.execution.condition import Flips
from holdfast.execution.engines.suffix.dirty import (
    Box,
    Dirty,
    around,
    cut,
    differing,
    equal,
    overlap,
    relative,
    reshaped,
    volume,
)
from holdfast.execution.engines.suffix.golden import Golden, private
from holdfast.execution.engines.suffix.tape import Mark, Read, Step, Tape
from holdfast.execution.injection import STORED, applied, flip_rows
from holdfast.execution.plan import Trial

_SMALL = 0.5  # part of a cell below which only the box that differs is held
_SEARCHED = 1 << 20  # elements beyond which a cell is compared but not searched


class Flight:
    """The state of one trial between two steps of the tape.

    Attributes:
        dirty: the cells that differ from the golden pass.
        seeds: the steps that read stored bits which the trial flips.
        events, alarms: what each guard counted.
    """

    def __init__(self, model: nn.Module, tape: Tape, golden: Golden, trial: Trial) -> None:
        self.golden, self._tape, self._model = golden, tape, model
        self.dirty: dict[int, Dirty] = {}
        self.events, self.alarms = list(golden.events), list(golden.alarms)
        self._memory = [flips for flips in trial.flips if flips.site.kind in STORED]
        self._waiting: dict[int, list[tuple[Mark, Flips]]] = {}
        for flips in _in_order(_by_site(trial), tape):
            mark = tape.marks.get((flips.site.kind, flips.site.name))
            if mark is None:
                raise NoSuchSite(
                    f"{flips.site.address} is not on the tape", hint="engine='auto' runs it as a whole pass"
                )
            self._waiting.setdefault(mark.position, []).append((mark, flips))
        # a lens decodes stored scales into the parameter itself, so that is what the steps read
        names = {read_of(flips) for flips in self._memory}
        self.seeds = frozenset(number for name in names for number in tape.readers.get(name, ()))
        self._due = set(self.seeds)

    @property
    def start(self) -> int:
        """The first step that can differ."""
        return min([*self._waiting, *self._due], default=len(self._tape.steps))

    @property
    def masked(self) -> bool:
        """Whether nothing differs and nothing will."""
        return not (self.dirty or self._waiting or self._due)

    def arrive(self, number: int) -> None:
        """Apply the flips that wait before step ``number``."""
        for mark, flips in self._waiting.pop(number, ()):
            self._flip(mark, flips)

    def concerned(self, number: int, step: Step) -> bool:
        """Say whether ``step`` computes something else than in the golden pass."""
        return number in self._due or any(cell in self.dirty for cell in step.cells)

    @contextmanager
    def memory(self, number: int) -> Iterator[None]:
        """Have the stored bits flipped for the length of step ``number``, if it reads them."""
        if number not in self._due:
            yield
            return
        self._due.discard(number)
        with applied(self._model, self._memory):
            yield

    def _flip(self, mark: Mark, flips: Flips) -> None:
        cell = mark.read.cell
        known, size = self.dirty.get(cell), mark.read.size
        if mark.read.whole and self._tape.cells[cell].plain and known is None and size:
            box = around(torch.unravel_index(flips.index, size))
            if volume(box) < _SMALL * max(1, self.golden.cell(cell).numel()):
                patch = cut(self.golden.cell(cell), box).clone(memory_format=torch.contiguous_format)
                shape = patch.shape
                place = [i - low for i, (low, _) in zip(torch.unravel_index(flips.index, size), box, strict=True)]
                local = _ravel(place, shape)
                site = replace(flips.site, shape=tuple(shape), outer=1)  # one sample is one piece
                self.dirty[cell] = Dirty(
                    flip_rows(patch, torch.zeros_like(local), replace(flips, site=site, index=local)), box
                )
                return
        view = mark.read.of(self.own(cell))
        flipped = flip_rows(view, torch.zeros_like(flips.index), flips)
        if flipped is not view:
            view.copy_(flipped)

    def own(self, cell: int) -> Tensor:
        """Return the whole of a cell, which this trial may write to from now on."""
        found = self.dirty.get(cell)
        if found is None or found.box is not None:
            holder = private(self.golden.cell(cell), self._tape.cells[cell])
            if found is not None and found.box is not None:
                cut(holder, found.box).copy_(found.data)
            found = self.dirty[cell] = Dirty(holder)
        return found.data

    def value(self, cell: int) -> Tensor:
        """Return the whole of a cell, not to be written to."""
        return self.own(cell) if cell in self.dirty else self.golden.cell(cell)

    def inside(self, read: Read, box: Box) -> Tensor:
        """Return a contiguous copy of what ``read`` sees inside ``box``; only for a plain cell."""
        size = self._tape.cells[read.cell].size
        own = reshaped(box, read.size, size)
        return self._inside(read.cell, own).view([high - low for low, high in box])

    def _inside(self, cell: int, box: Box) -> Tensor:
        found = self.dirty.get(cell)
        if found is not None and found.box is None:
            return cut(found.data, box).clone(memory_format=torch.contiguous_format)
        if found is not None and found.box == box:
            return found.data.clone()
        patch = cut(self.golden.cell(cell), box).clone(memory_format=torch.contiguous_format)
        if found is not None and found.box is not None and (common := overlap(found.box, box)) is not None:
            cut(patch, relative(common, box)).copy_(cut(found.data, relative(common, found.box)))
        return patch

    def box(self, read: Read) -> Box | None:
        """Return where ``read``, of a plain cell, may differ; None when that is everywhere or not known."""
        found = self.dirty[read.cell]
        if found.box is None:
            return None
        size = self._tape.cells[read.cell].size
        box = reshaped(found.box, size, read.size)
        return box if volume(reshaped(box, read.size, size)) == volume(box) else None

    def settle(self, cell: int, *, narrow: bool) -> None:
        """Let go of a cell that equals the golden one; with ``narrow``, hold no more of it than what differs."""
        found, golden = self.dirty[cell], self.golden.kept(cell)
        if golden is None:
            return
        part = golden if found.box is None else cut(golden, found.box)
        if not narrow or found.data.numel() > _SEARCHED:
            if equal(found.data, part):
                del self.dirty[cell]
            return
        box = differing(found.data, part)
        if box is None:
            del self.dirty[cell]
        elif volume(box) < _SMALL * found.data.numel() and (found.box is not None or self._tape.cells[cell].plain):
            corner = [0] * len(box) if found.box is None else [low for low, _ in found.box]
            shifted = tuple((a + s, b + s) for (a, b), s in zip(box, corner, strict=True))
            self.dirty[cell] = Dirty(cut(found.data, box).clone(memory_format=torch.contiguous_format), shifted)

    def leave(self, number: int, step: Step) -> None:
        """Let go of the cells that no step after ``number`` reads."""
        for cell in (*step.cells, *step.made):
            if self._tape.last_use[cell] <= number:
                self.dirty.pop(cell, None)

    def output(self) -> Tensor:
        """Return the model's output, shape (1, ...)."""
        read = self._tape.output
        return read.of(self.value(read.cell))


def _by_site(trial: Trial) -> list[Flips]:
    """Return the flips in computed values, those of one site as one."""
    sites: dict[str, list[Flips]] = {}
    for flips in trial.flips:
        if flips.site.kind not in STORED:
            sites.setdefault(flips.site.address, []).append(flips)
    return [items[0] if len(items) == 1 else Flips.joined(items) for items in sites.values()]


def _in_order(found: list[Flips], tape: Tape) -> list[Flips]:
    """Return flips in the order in which a pass reaches their sites: one value may have two names."""
    if len(found) < 2:
        return found
    places = {site: number for number, site in enumerate(tape.marks)}
    return sorted(found, key=lambda flips: places.get((flips.site.kind, flips.site.name), 0))


def read_of(flips: Flips) -> tuple[str, str]:
    """Return kind and name of the stored tensor in which a pass sees ``flips``."""
    if flips.site.kind == "qparams":
        return "weights", flips.site.name.rpartition("/")[0]
    return flips.site.kind, flips.site.name


def _ravel(index: list[Tensor], size: torch.Size) -> Tensor:
    place = torch.zeros_like(index[0])
    for step, length in zip(index, size, strict=True):
        place = place * length + step
    return place
