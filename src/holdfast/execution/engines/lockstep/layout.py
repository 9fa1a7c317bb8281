"""Where the rows of a batch lie in every cell of a tape, found by moving them, and where the tape may be cut.

A pass is run on one batch and on others in which half of the rows stand elsewhere and the rest are strangers. A cell
has its rows along a dimension if each row that moved has the same bits there. A cell in which no dimension does so
mixes rows, or depends on where a row stands, and then no batch of trials may share the pass.

Bits alone do not tell rows from equal entries of something that all rows share, such as a scale per head. So only what
is computed from the input has rows, and rows that no batch changed are marked: a fault in memory may make them differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from holdfast.errors import InvalidConfig
from holdfast.execution.engines.suffix.golden import execute, private
from holdfast.execution.engines.suffix.tape import Cell, Read, Step, Tape
from holdfast.numerics import bits
from holdfast.seeds import derive

_TURNS = 2
Moves = Sequence[tuple[int, int]]  # the (old, new) places of rows


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of a batch along one dimension of a tensor, which counts ``outer`` things before them and the rest after.

    ``steady`` says that every batch tried gave the same bits, so that these may be entries of something shared.
    """

    dim: int
    outer: int
    count: int
    steady: bool = False

    def of(self, holder: Tensor) -> Tensor:
        """Return the view of ``holder`` with the rows first."""
        inner = holder.shape[self.dim] // (self.outer * self.count)
        apart: Tensor = holder.unflatten(self.dim, (self.outer, self.count, inner))
        return apart.movedim(self.dim + 1, 0)


Layouts = dict[int, Rows | None]  # None: the same whatever the batch holds


def layouts_of(tape: Tape, batch: Tensor) -> tuple[Layouts, dict[int, torch.dtype]]:
    """Return where the rows of ``batch`` (B, ...), on which ``tape`` was recorded, lie in each cell, and its dtype.

    Raises:
        InvalidConfig: what a step computes for a row depends on its place, or on the rows beside it.
    """
    moves = [_moved(batch, turn) for turn in range(_TURNS)] if len(batch) > 1 else []
    held = [{0: batch.clone()}, *({0: moved} for moved, _ in moves)]
    places = [place for _, place in moves]
    found: Layouts = {0: Rows(0, 1, len(batch))}
    dtypes, flowing = {0: batch.dtype}, flowing_of(tape)
    for number, step in enumerate(tape.steps):
        made = [execute(step, _inputs(tape, step, cells)) for cells in held]
        for cell in step.made:
            dtypes[cell] = made[0][cell].dtype
            unread = tape.last_use[cell] < 0  # such as the state of a generator that is never asked
            moving = places if cell in flowing else None
            found[cell] = None if unread else _layout(step, [item[cell] for item in made], moving, len(batch))
        for cells, fresh in zip(held, made, strict=True):
            cells.update(fresh)
            for cell in {*step.cells, *step.made}:
                if tape.last_use[cell] <= number:
                    del cells[cell]
    return found, dtypes


def require_rows_first(tape: Tape, layouts: Layouts) -> None:
    """Let no guard see rows along another dimension than the first: of that it counts, and would count other things.

    Raises:
        InvalidConfig: one does.
    """
    for step in tape.steps:
        if step.guard >= 0 and not _has_rows_first(step.reads[0], tape.cells, layouts):
            site = getattr(tape.guards[step.guard], "site", "a site")
            raise unfit(f"the samples at {site}, which has a guard, do not stand along its first dimension")


def _has_rows_first(read: Read, cells: Sequence[Cell], layouts: Layouts) -> bool:
    rows, cell = layouts[read.cell], cells[read.cell]
    if rows is None or not cell.dense:
        return rows is None
    holder, numbers = torch.empty_strided(cell.size, cell.stride, dtype=torch.int64), torch.arange(rows.count)
    placed = rows.of(holder)
    placed.copy_(numbers.view(-1, *[1] * (placed.dim() - 1)))
    seen = read.of(holder)
    return len(seen) % rows.count == 0 and bool(seen.reshape(rows.count, -1).T.eq(numbers).all())


def flowing_of(tape: Tape) -> frozenset[int]:
    """Return the cells that are computed from the input; all others are made of what is stored."""
    found = {0}
    for step in tape.steps:
        if found.intersection(step.cells):
            found.update(step.made)
    return frozenset(found)


def _inputs(tape: Tape, step: Step, cells: dict[int, Tensor]) -> dict[int, Tensor]:
    written = {old for old, _ in step.rewrites}
    return {cell: private(cells[cell], tape.cells[cell]) if cell in written else cells[cell] for cell in step.cells}


def _moved(batch: Tensor, turn: int) -> tuple[Tensor, list[tuple[int, int]]]:
    """Return a batch in which every other row is one of ``batch``, elsewhere, and the (old, new) places of those."""
    count = len(batch)
    ring = derive(0, "lockstep", turn).numpy().permutation(count).tolist()
    order = dict(zip(ring[1:] + ring[:1], ring, strict=True))  # a ring, so that no row keeps its place
    moved = strangers(batch[:1], count, turn + 1)
    places = [(order[new], new) for new in range(count) if new % _TURNS == turn]
    for old, new in places:
        moved[new] = batch[old]
    return moved, places


def strangers(sample: Tensor, count: int, turn: int = 0) -> Tensor:
    """Return ``count`` different rows that a model which takes ``sample``, shape (1, ...), takes as well."""
    draw = derive(0, "strangers", turn).numpy()
    rows = torch.empty((count, *sample.shape[1:]), dtype=sample.dtype)
    for row in rows:
        if sample.is_floating_point():
            noise = torch.from_numpy(draw.standard_normal(row.shape))
            row.copy_(sample[0].cpu() * float(draw.uniform(0.5, 1.5)) + noise * 0.5)
        else:
            flat = sample[0].cpu().flatten()
            row.view(-1).copy_(flat[torch.from_numpy(draw.permutation(len(flat)))])
    return rows.to(sample.device)


def _layout(step: Step, made: Sequence[Tensor], moves: Sequence[Moves] | None, count: int) -> Rows | None:
    """Return where the rows are in what ``step`` gave for each batch; ``moves`` is None where the input has no part."""
    ours, others = made[0], made[1:]
    steady = all(same(ours, theirs) for theirs in others)
    for rows in _candidates(ours, count) if moves is not None else []:
        pairs = zip(others, moves or (), strict=True)
        if all(_same_rows(rows.of(ours), rows.of(theirs), places) for theirs, places in pairs):
            return replace(rows, steady=steady and bool(others))
    if steady:
        return None
    raise unfit(f"what {step.call} gives for a row depends on its place in a batch of {count}, or on other rows")


def _candidates(holder: Tensor, count: int) -> list[Rows]:
    found = []
    for dim, size in enumerate(holder.shape):
        if size and size % count == 0:
            found += [Rows(dim, outer, count) for outer in dict.fromkeys((1, size // count))]
    return found


def _same_rows(ours: Tensor, theirs: Tensor, places: Moves) -> bool:
    old, new = (torch.tensor(index, device=ours.device) for index in zip(*places, strict=True))
    return ours.shape == theirs.shape and same(ours[old], theirs[new])


def same(ours: Tensor, theirs: Tensor) -> bool:
    """Say whether two tensors of any kind hold the same bits."""
    if ours.dtype == torch.bool:
        return torch.equal(ours, theirs)
    return bits.bit_equal(ours, theirs)


def unfit(reason: str) -> InvalidConfig:
    """Return the error of a model whose trials cannot share batches."""
    hint = "engine='hooks' runs every model; engine='auto' falls back to it by itself"
    return InvalidConfig(f"trials of this model cannot share a batch: {reason}", hint=hint)


def live(tape: Tape, position: int) -> tuple[int, ...]:
    """Return the cells that steps from ``position`` on read and steps before it made."""
    cells = zip(tape.producer, tape.last_use, strict=True)
    return tuple(cell for cell, (made, last) in enumerate(cells) if made < position <= last)


def cuts_of(tape: Tape, most: int) -> tuple[int, ...]:
    """Return up to ``most`` positions, the first 0, at which little is alive and all of that can be kept row by row."""
    count = len(tape.steps)
    width = max(1, -(-count // most))
    found = [0]
    for start in range(width, count, width):
        ready = [place for place in range(start, min(start + width, count)) if _fits(tape, place)]
        if ready:
            found.append(min(ready, key=lambda place: (_volume(tape, place), place)))
    return tuple(found)


def _fits(tape: Tape, position: int) -> bool:
    return all(tape.cells[cell].dense for cell in live(tape, position))


def _volume(tape: Tape, position: int) -> int:
    return sum(torch.Size(tape.cells[cell].size).numel() for cell in live(tape, position))
