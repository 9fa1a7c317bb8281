"""One step on values that nobody chose: what a kernel must reproduce before it is trusted.

Golden values may be zeros behind a rectifier, or sums that no rounding touches, and then every kernel gives their bits.
Random values tell kernels apart that add in different orders.
"""

from __future__ import annotations

import torch
from torch import Tensor

from holdfast.execution.engines.suffix.golden import Golden, execute, private
from holdfast.execution.engines.suffix.tape import Read, Tape
from holdfast.seeds import derive


class Probe:
    """Stands in for a golden pass where a step reads and writes; floats are normal, the rest is golden.

    Args:
        tape: the model's.
        number: of the step.
        golden: pass that says what kind of values there are.
        turn: of several probes of one step.
    """

    def __init__(self, tape: Tape, number: int, golden: Golden, turn: int) -> None:
        self._tape = tape
        step, written = tape.steps[number], {old for old, _ in tape.steps[number].rewrites}
        self._cells = {cell: self._noise(golden.cell(cell), (number, cell, turn)) for cell in step.cells}
        held = {
            cell: private(self._cells[cell], tape.cells[cell]) if cell in written else self._cells[cell]
            for cell in step.cells
        }
        self._cells.update(execute(step, held))

    def _noise(self, like: Tensor, path: tuple[int, ...]) -> Tensor:
        if not like.is_floating_point():
            return like
        values = torch.from_numpy(derive(0, "probe", *path).numpy().standard_normal(like.numel()))
        found = torch.empty_strided(like.size(), like.stride(), dtype=like.dtype, device=like.device)
        return found.copy_(values.view(like.shape))

    def cell(self, number: int) -> Tensor:
        """Return the value of a cell that the step reads or makes, not to be written to."""
        return self._cells[number]

    def view(self, read: Read) -> Tensor:
        """Return what the step reads, not to be written to."""
        return read.constant if read.constant is not None else read.of(self.cell(read.cell))
