"""Running steps of a tape on a batch, with the faults of its rows."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

import torch
from torch import Tensor, nn

from holdfast.execution.condition import Flips
from holdfast.execution.engines.lockstep.layout import Layouts
from holdfast.execution.engines.lockstep.load import Load
from holdfast.execution.engines.suffix.golden import execute, private
from holdfast.execution.engines.suffix.tape import Step, Tape
from holdfast.execution.injection import applied, flip_rows

_COUNTS = ("events", "alarms")
Held = dict[int, Tensor]  # cell -> its value for the whole batch, which may be written to


class March:
    """Runs steps one after the other.

    Args:
        model: whose stored bits trials flip.
        tape: recorded on a batch.
        layouts: where the rows are.
    """

    def __init__(self, model: nn.Module, tape: Tape, layouts: Layouts) -> None:
        self._model, self.tape, self._layouts = model, tape, layouts
        self._rows = tape.cells[0].size[0]

    def run(self, start: int, stop: int, held: Held, load: Load) -> None:
        """Run the steps from ``start`` to ``stop`` on ``held``, and let go of cells that nothing reads any more."""
        for number in range(start, stop):
            self.strike(number, held, load)
            step = self.tape.steps[number]
            held.update(self._step(number, step, held, load))
            for cell in {*step.cells, *step.made}:
                if self.tape.last_use[cell] <= number:
                    del held[cell]

    def strike(self, position: int, held: Held, load: Load) -> None:
        """Apply the flips that wait before step ``position``, those of one site in one call."""
        waiting = sorted(load.waiting.get(position, ()), key=lambda item: item[0])
        for _, items in groupby(waiting, key=lambda item: item[0]):
            group = list(items)
            read = group[0][1].read
            if read.cell not in held:  # nothing reads it any more, so nothing would see the flip
                continue
            rows = torch.cat([torch.full_like(flips.index, row) for _, _, row, flips in group])
            view = read.of(held[read.cell])
            flipped = flip_rows(view, rows, Flips.joined([flips for *_, flips in group]))
            if flipped is not view:
                view.copy_(flipped)

    def _step(self, number: int, step: Step, held: Held, load: Load) -> Held:
        struck = load.due.get(number, [])
        if not struck:
            return execute(step, {cell: held[cell] for cell in step.cells})
        if load.alone:
            with applied(self._model, struck[0][1]):
                return execute(step, {cell: held[cell] for cell in step.cells})
        made = execute(step, self._copies(step, held))
        counts = self._counts(step)
        for row, memory in struck:
            with applied(self._model, memory):
                self._take_row(row, made, execute(step, self._copies(step, held)), step.made)
            for ours, theirs in zip(counts, self._counts(step), strict=True):
                ours[row] = theirs[row]
        self._leave(step, counts)
        return made

    def _counts(self, step: Step) -> list[Tensor]:
        """Return what the guard that ``step`` is counted of each row, shape (rows, n); nothing of another step."""
        guard = self.tape.guards[step.guard] if step.guard >= 0 else None
        found = [getattr(guard, name, None) for name in _COUNTS]
        return [count.reshape(self._rows, -1).clone() for count in found if count is not None]

    def _leave(self, step: Step, counts: list[Tensor]) -> None:
        for name, count in zip(_COUNTS, counts, strict=False):
            setattr(self.tape.guards[step.guard], name, count.flatten())

    def _copies(self, step: Step, held: Held) -> Held:
        written = {old for old, _ in step.rewrites}
        cells = self.tape.cells
        return {cell: private(held[cell], cells[cell]) if cell in written else held[cell] for cell in step.cells}

    def _take_row(self, row: int, ours: Held, theirs: Held, cells: Iterable[int]) -> None:
        for cell in cells:
            rows = self._layouts[cell]
            if rows is not None:
                rows.of(ours[cell])[row].copy_(rows.of(theirs[cell])[row])
