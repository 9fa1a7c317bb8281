"""The golden pass of one sample: the value of every cell, kept within a budget and computed again beyond it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from holdfast.execution.engines.suffix.tape import Cell, Read, Step, Tape, call

UNLIMITED = 2**62


def private(holder: Tensor, cell: Cell) -> Tensor:
    """Return a copy of a cell that may be written to, with the same strides."""
    if cell.dense:
        return holder.clone()
    # a tensor with gaps or overlaps, such as an expanded one, is copied with all of its storage
    storage = holder.untyped_storage().clone()
    return torch.empty(0, dtype=holder.dtype, device=holder.device).set_(
        storage, holder.storage_offset(), cell.size, cell.stride
    )


def execute(step: Step, held: dict[int, Tensor]) -> dict[int, Tensor]:
    """Run ``step`` on the cells ``held`` and return the cells it makes; those that it rewrites must be private."""
    output = call(
        step, [read.constant if read.constant is not None else read.of(held[read.cell]) for read in step.reads]
    )
    if step.guard >= 0:
        site = step.reads[0].of(held[step.reads[0].cell])
        if output is not site:
            site.copy_(output)
    outputs = output if isinstance(output, tuple | list) else (output,)
    made = {new: held[old] for old, new in step.rewrites}
    made.update((cell, outputs[place]) for cell, place in step.makes)
    return made


class Golden:
    """Cells of one fault-free pass.

    Args:
        tape: the model's.
        sample: the input, shape (1, ...); belongs to this object from now on.
        budget: bytes of cells to keep. Beyond it every other cell is let go, the oldest first thinned most; one that
            is missing is computed again from those before it, and then kept until the block ends.
    """

    def __init__(self, tape: Tape, sample: Tensor, budget: int = UNLIMITED) -> None:
        self._tape, self._budget = tape, budget
        self._kept: dict[int, Tensor] = {0: sample}
        self._again: dict[int, Tensor] = {}  # computed again, until the block ends
        self.events: list[Tensor | None] = [None] * len(tape.guards)
        self.alarms: list[Tensor | None] = [None] * len(tape.guards)
        self.bytes = sample.nbytes
        self._run()

    def _run(self) -> None:
        live: dict[int, Tensor] = {0: self._kept[0]}
        needed = {mark.read.cell for mark in self._tape.marks.values()} | {self._tape.output.cell}
        for number, step in enumerate(self._tape.steps):
            made = execute(step, self._inputs(step, live.__getitem__))
            self._note_events(step)
            live.update(made)
            for cell in made:
                if self._tape.last_use[cell] > number or cell in needed:
                    self._keep(cell, made[cell])
            for cell in [cell for cell in live if self._tape.last_use[cell] <= number]:
                del live[cell]

    def _inputs(self, step: Step, value: Callable[[int], Tensor]) -> dict[int, Tensor]:
        written = {old for old, _ in step.rewrites}
        cells = self._tape.cells
        return {cell: private(value(cell), cells[cell]) if cell in written else value(cell) for cell in step.cells}

    def _note_events(self, step: Step) -> None:
        if step.guard >= 0:
            guard = self._tape.guards[step.guard]
            self.events[step.guard] = guard.events
            self.alarms[step.guard] = getattr(guard, "alarms", None)

    def _keep(self, cell: int, holder: Tensor) -> None:
        self._kept[cell] = holder
        self.bytes += holder.untyped_storage().nbytes()
        while self.bytes > self._budget and len(self._kept) > 2:
            self._thin()

    def _thin(self) -> None:
        """Let go of every other cell but the input and, while the pass runs, the newest."""
        for cell in sorted(self._kept)[1:-1:2]:
            self.bytes -= self._kept.pop(cell).untyped_storage().nbytes()

    def cell(self, number: int) -> Tensor:
        """Return the golden value of a cell, not to be written to."""
        found = self._kept.get(number)
        if found is None:
            found = self._again.get(number)
        return self._compute(number) if found is None else found

    def kept(self, number: int) -> Tensor | None:
        """Return the golden value of a cell if that costs nothing."""
        found = self._kept.get(number)
        return self._again.get(number) if found is None else found

    def _compute(self, number: int) -> Tensor:
        """Run the steps that lead to a cell, from the nearest ones that are kept."""
        if sum(holder.untyped_storage().nbytes() for holder in self._again.values()) > self._budget:
            self._again.clear()
        for place in self._missing(number):
            step = self._tape.steps[place]
            self._again.update(execute(step, self._inputs(step, self._known)))
        return self._again[number]

    def _known(self, number: int) -> Tensor:
        return self._kept[number] if number in self._kept else self._again[number]

    def _missing(self, number: int) -> list[int]:
        todo, places = [number], set()
        while todo:
            cell = todo.pop()
            place = self._tape.producer[cell]
            if cell not in self._kept and cell not in self._again and place not in places:
                places.add(place)
                todo.extend(self._tape.steps[place].cells)
        return sorted(places)

    def forget(self) -> None:
        """Let go of what was computed again."""
        self._again.clear()

    def view(self, read: Read) -> Tensor:
        """Return what a step reads in the fault-free pass, not to be written to."""
        return read.constant if read.constant is not None else read.of(self.cell(read.cell))

    def output(self) -> Tensor:
        """Return the model's output, shape (1, ...), not to be written to."""
        return self.view(self._tape.output)


def total_bytes(passes: Iterable[Golden]) -> int:
    """Return the memory that golden passes hold."""
    return sum(item.bytes for item in passes)
