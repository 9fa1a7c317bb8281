"""A tape: the tensor operations of one golden pass in order, with every write to memory told apart.

Memory is counted in *cells*. A cell is one storage between two writes: an operation that allocates makes a new cell,
one that works in place turns a cell into the next. Views make none. So each cell has one value, whatever aliases it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from holdfast.models.guard_kinds import AnyGuard


@dataclass(frozen=True, slots=True)
class Slot:
    """Stands for tensor ``index`` of a step's reads inside its arguments."""

    index: int


@dataclass(frozen=True, slots=True)
class Read:
    """One tensor that a step reads: a view of a cell, or something stored that outlives the pass.

    Attributes:
        cell: number of the cell; -1 for what is stored.
        constant: the stored tensor itself, alive, so that a fault in it is seen; None for a cell.
        whole: the view is the cell's own tensor.
        flat: the view holds all elements of a plain cell in order, under another shape.
    """

    cell: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int  # from the first element of the cell's own tensor
    constant: Tensor | None = None
    whole: bool = False
    flat: bool = False

    def of(self, holder: Tensor) -> Tensor:
        """Return this view of the cell that ``holder`` holds."""
        if self.whole:
            return holder
        return holder.as_strided(self.size, self.stride, holder.storage_offset() + self.offset)


@dataclass(frozen=True, slots=True)
class Cell:
    """One storage between two writes, as the tensor that made it saw it."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    dense: bool  # strides cover the storage without gaps or overlaps, so a clone keeps them
    plain: bool  # contiguous and the whole storage
    depends: bool  # on the input or on a stored float


@dataclass(frozen=True, slots=True)
class Step:
    """One operation.

    Attributes:
        call: the operation, below autograd; or a guard.
        args, kwargs: as called, with :class:`Slot` for each tensor.
        reads: the tensors, in the order of the slots.
        rewrites: cells written in place, with the cell that each becomes.
        makes: new cells, with their place among the outputs.
        stored: names of the stored floats it reads, as (kind, name).
        guard: number of the guard that this step is, or -1.
    """

    call: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    reads: tuple[Read, ...]
    rewrites: tuple[tuple[int, int], ...]
    makes: tuple[tuple[int, int], ...]
    stored: frozenset[tuple[str, str]]
    guard: int = -1
    cells: tuple[int, ...] = field(init=False)  # that it reads
    made: tuple[int, ...] = field(init=False)  # in place or not

    def __post_init__(self) -> None:
        object.__setattr__(self, "cells", tuple(dict.fromkeys(read.cell for read in self.reads if read.cell >= 0)))
        object.__setattr__(self, "made", (*(new for _, new in self.rewrites), *(cell for cell, _ in self.makes)))


@dataclass(frozen=True, slots=True)
class Mark:
    """Where a site is: the view that holds its value before step ``position``."""

    position: int
    read: Read


@dataclass(frozen=True)
class Tape:
    """The golden pass of one sample.

    Attributes:
        steps: operations in order; views are folded into the reads.
        cells: what each cell looks like; cell 0 is the input.
        marks: site kind and name -> where it is.
        output: the model's output.
        guards: the guards that run, in the order of the card.
    """

    steps: tuple[Step, ...]
    cells: tuple[Cell, ...]
    marks: Mapping[tuple[str, str], Mark]
    output: Read
    guards: tuple[AnyGuard, ...] = ()
    last_use: tuple[int, ...] = field(init=False)  # of each cell; len(steps) for the output
    producer: tuple[int, ...] = field(init=False)  # of each cell; -1 for the input
    readers: Mapping[tuple[str, str], tuple[int, ...]] = field(init=False)  # of each stored float

    def __post_init__(self) -> None:
        last, producer = [-1] * len(self.cells), [-1] * len(self.cells)
        readers: dict[tuple[str, str], list[int]] = {}
        for number, step in enumerate(self.steps):
            for cell in step.cells:
                last[cell] = number
            for cell in step.made:
                producer[cell] = number
            for name in step.stored:
                readers.setdefault(name, []).append(number)
        if self.output.cell >= 0:
            last[self.output.cell] = len(self.steps)
        object.__setattr__(self, "last_use", tuple(last))
        object.__setattr__(self, "producer", tuple(producer))
        object.__setattr__(self, "readers", {name: tuple(steps) for name, steps in readers.items()})


def filled(value: Any, tensors: Sequence[Tensor]) -> Any:
    """Return the arguments ``value`` with each slot replaced by its tensor."""
    if type(value) is Slot:
        return tensors[value.index]
    if type(value) in (list, tuple):
        return type(value)(filled(item, tensors) for item in value)
    return value


def call(step: Step, tensors: Sequence[Tensor]) -> Any:
    """Run ``step`` on ``tensors``, one for each read."""
    kwargs = {key: filled(item, tensors) for key, item in step.kwargs.items()}
    return step.call(*filled(step.args, tensors), **kwargs)
