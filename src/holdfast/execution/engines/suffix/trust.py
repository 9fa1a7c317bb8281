"""Which sizes of box, and how many at once, a kernel computes bit for bit as in a whole pass.

A library picks its kernel by the sizes it is given, and two kernels may add in different orders. So no size is used
before it was tried: boxes of that size at the corners and inside, alone or stacked, must give the bits of the whole,
with the golden values and with others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from holdfast.execution.engines.suffix.dirty import Box, cut, reshaped, volume
from holdfast.execution.engines.suffix.golden import Golden
from holdfast.execution.engines.suffix.rules import Rule
from holdfast.execution.engines.suffix.tape import Read, Step, Tape, call
from holdfast.numerics import bits

Fetch = Callable[[Read, Box], Tensor]
CHUNKS = (8, 4, 2, 1)
_ENOUGH = 4096  # results to compare before a size is trusted


class Trust:
    """Remembers what was tried; one for all trials on a tape."""

    def __init__(self, tape: Tape) -> None:
        self._tape = tape
        self._known: dict[tuple[Any, ...], bool] = {}
        self._signatures: dict[int, tuple[Any, ...]] = {}

    def boxes(self, rule: Rule, number: int, box: Box, count: int, golden: Golden) -> bool:
        """Say whether ``count`` boxes of the size of ``box`` in one call give the bits of step ``number``."""
        if rule.exact:
            return True
        extent = tuple(high - low for low, high in box)
        key = (*self._signature(number), extent, count)
        if key not in self._known:
            self._known[key] = self._try_boxes(rule, number, box, count, golden)
        return self._known[key]

    def rows(self, number: int, slot: int, count: int, golden: Golden) -> bool:
        """Say whether ``count`` whole operands, one below the other, give the bits of step ``number`` each."""
        key = (*self._signature(number), "rows", count)
        if key not in self._known:
            step = self._tape.steps[number]
            operand = golden.view(step.reads[slot])
            tries = _tries(golden.cell(step.makes[0][0]).numel() * count)
            others = others_like(operand, 2 * tries)
            pairs = zip(others[::2], others[1::2], strict=True)
            self._known[key] = all(self._stacks(step, slot, pair, count, golden) for pair in pairs)
        return self._known[key]

    def _stacks(self, step: Step, slot: int, pair: Sequence[Tensor], count: int, golden: Golden) -> bool:
        """Say whether two operands in turn, ``count`` in one call, give what each gives alone."""
        reads = [golden.view(read) for read in step.reads]

        def run(operand: Tensor) -> Tensor:
            result: Tensor = call(step, [*reads[:slot], operand, *reads[slot + 1 :]])
            return result

        alone, turns = [run(operand) for operand in pair], [place % 2 for place in range(count)]
        together = run(torch.cat([pair[turn] for turn in turns])).split(len(alone[0]))
        return all(_equal(row, alone[turn]) for row, turn in zip(together, turns, strict=True))

    def _try_boxes(self, rule: Rule, number: int, box: Box, count: int, golden: Golden) -> bool:
        """Try on the golden values and on others: zeros behind a ReLU hide in which order a kernel adds."""
        step = self._tape.steps[number]
        cell = step.made[0]
        places = _places(box, self._tape.cells[cell].size)
        known = (lambda read, field: inside_golden(golden, self._tape, read, field), golden.cell(cell))
        if not _boxes_agree(rule, step, places, count, *known):
            return False
        if step.rewrites:  # a step in place has no values but its own; such rules round once for each value
            return True
        return all(
            _boxes_agree(rule, step, places, count, *_elsewhere(rule, step, box, golden, turn))
            for turn in range(_tries(volume(box) * count, most=4))
        )

    def _signature(self, number: int) -> tuple[Any, ...]:
        """Return what the choice of a kernel may depend on, whatever the values are."""
        if number not in self._signatures:
            step = self._tape.steps[number]
            tensors = tuple((read.size, read.stride) for read in step.reads)
            self._signatures[number] = (str(step.call), repr(step.args), repr(step.kwargs), tensors)
        return self._signatures[number]


def _boxes_agree(rule: Rule, step: Step, places: Sequence[Box], count: int, fetch: Fetch, want: Tensor) -> bool:
    for start in range(0, len(places), count):
        group = [places[(start + k) % len(places)] for k in range(count)]
        results = run_boxes(rule, step, group, [fetch] * count)
        if not all(_equal(result, cut(want, place)) for result, place in zip(results, group, strict=True)):
            return False
    return True


def _elsewhere(rule: Rule, step: Step, box: Box, golden: Golden, turn: int) -> tuple[Fetch, Tensor]:
    """Return what a step reads, and what it makes, of operands with other values."""
    reads = [golden.view(read) for read in step.reads]
    for slot in rule.operands(step, box):
        reads[slot] = others_like(reads[slot], 1, turn)[0]
    output = call(step, reads)
    want = output[step.makes[0][1]] if isinstance(output, tuple | list) else output

    def fetch(read: Read, field: Box) -> Tensor:
        slot = next(place for place, item in enumerate(step.reads) if item is read)
        return cut(reads[slot], field).clone(memory_format=torch.contiguous_format)

    return fetch, want


def others_like(operand: Tensor, count: int, turn: int = 0) -> list[Tensor]:
    """Return tensors with the memory layout and about the size of the values of ``operand``, but without its zeros."""
    generator = torch.Generator(operand.device).manual_seed(turn)
    scale = float(operand.double().square().mean().sqrt()) or 1.0
    drawn = (torch.randn(operand.shape, generator=generator, device=operand.device) for _ in range(count))
    return [torch.empty_like(operand).copy_(values * scale) for values in drawn]


def _tries(results: int, most: int = 16) -> int:
    """Return how often to try when one try compares so many results: few of them may agree by chance."""
    return max(1, min(most, -(-_ENOUGH // max(1, results))))


def run_boxes(rule: Rule, step: Step, boxes: Sequence[Box], fetches: Sequence[Fetch]) -> list[Tensor]:
    """Return the results inside ``boxes``, all of one size; stacked in one call when there are several."""
    tables = [_parts(rule, step, box, fetch) for box, fetch in zip(boxes, fetches, strict=True)]
    if len(tables) == 1:
        return [rule.run(step, tables[0], boxes[0])]
    slots = rule.operands(step, boxes[0])
    parts = [
        torch.cat([table[slot] for table in tables]) if slot in slots else tables[0][slot]
        for slot in range(len(step.reads))
    ]
    result = rule.run(step, parts, boxes[0])
    return list(result.split(len(result) // len(boxes)))


def _parts(rule: Rule, step: Step, box: Box, fetch: Fetch) -> list[Tensor]:
    fields = rule.operands(step, box)
    parts = []
    for slot, read in enumerate(step.reads):
        if slot in fields:
            parts.append(_padded(read, fields[slot], fetch, rule.edge(step)))
        elif read.constant is not None:
            parts.append(read.constant)
    return parts


def _inside(low: int, high: int, length: int) -> tuple[int, int]:
    """Return the part of [low, high) within [0, length); an empty one lies where the range begins or ends."""
    start = min(max(0, low), length)
    return start, max(start, min(length, high))


def _padded(read: Read, field: Box, fetch: Fetch, edge: float) -> Tensor:
    core = tuple(_inside(low, high, length) for (low, high), length in zip(field, read.size, strict=True))
    part = fetch(read, core)
    if core == field:
        return part
    if not volume(core):  # all of it lies in the padding
        return part.new_full([high - low for low, high in field], edge)
    pads: list[int] = []
    for (low, high), (start, end) in zip(reversed(field), reversed(core), strict=True):
        pads += [start - low, high - end]
    return F.pad(part, pads, value=edge)


def inside_golden(golden: Golden, tape: Tape, read: Read, box: Box) -> Tensor:
    """Return a contiguous copy of what ``read`` sees inside ``box`` in the golden pass; only for a plain cell."""
    own = reshaped(box, read.size, tape.cells[read.cell].size)
    part = cut(golden.cell(read.cell), own).clone(memory_format=torch.contiguous_format)
    return part.view([high - low for low, high in box]) if volume(own) == volume(box) else cut(golden.view(read), box)


def _places(box: Box, size: Sequence[int]) -> list[Box]:
    """Return boxes of the size of ``box`` at both ends, in the middle, at odd places, and where it is."""
    found = [box]
    for along, across in ((0.0, 0.0), (1.0, 1.0), (0.0, 1.0), (0.5, 0.5), (0.31, 0.77), (1.0, 0.0), (0.71, 0.13)):
        place = []
        for number, ((low, high), full) in enumerate(zip(box, size, strict=True)):
            room = full - (high - low)
            start = round(room * (along if number % 2 else across))
            place.append((start, start + high - low))
        found.append(tuple(place))
    return list(dict.fromkeys(found))


def _equal(ours: Tensor, golden: Tensor) -> bool:
    return torch.equal(bits.int_view(ours), bits.int_view(golden.contiguous()))
