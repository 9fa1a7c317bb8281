"""Dirty windows: trials compute only the box that can differ, and those at the same step share calls."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from holdfast.execution.engines.suffix.dirty import Box, Dirty, cut, relative, reshaped, volume
from holdfast.execution.engines.suffix.rules import RULES, Linear, Rule, Sliding, operand_is_plain, slots_in_order
from holdfast.execution.engines.suffix.tape import Slot, Step, Tape
from holdfast.execution.engines.suffix.trial import Flight
from holdfast.execution.engines.suffix.trust import CHUNKS, Trust, run_boxes

_WORTH = 0.7  # part of a result beyond which all of it is computed
_ALIGNED = 64  # bytes; kernels may treat less aligned rows another way


@dataclass(slots=True)
class _Job:
    flight: Flight
    rule: Rule
    reach: Box  # what may differ
    box: Box  # what is computed


class Windows:
    """Boxes of the steps of one tape."""

    def __init__(self, tape: Tape) -> None:
        self._tape, self._trust = tape, Trust(tape)
        self._rules = [self._rule(number, step) for number, step in enumerate(tape.steps)]
        self._jobs: list[_Job] = []

    def _rule(self, number: int, step: Step) -> Rule | None:
        """Return the rule of a step whose only read result, and whose operands, are plain."""
        rule = RULES.get(step.call)
        if rule is None or not slots_in_order(step) or not step.made:
            return None
        cells, (result, *others) = self._tape.cells, step.made
        operands = [read for read in step.reads if read.cell >= 0]
        plain = cells[result].plain and all(operand_is_plain(read, cells[read.cell].plain) for read in operands)
        unread = all(self._tape.last_use[cell] <= number for cell in others)
        inner = [slot for slot, read in enumerate(step.reads) if read.cell >= 0]
        if isinstance(rule, Linear | Sliding):
            plain = plain and len(inner) == 1 and cells[result].size != ()
        if isinstance(rule, Sliding):
            plain = plain and step.reads[0].whole
        if step.rewrites:  # what is written in place must be the first operand, as it is
            plain = plain and step.reads[0].whole and len(step.rewrites) == 1 and not step.makes
        return rule if plain and unread and (result == step.made[0]) else None

    def take(self, number: int, flight: Flight) -> bool:
        """Queue a box of step ``number`` for ``flight`` and say so, if there is one that is worth it."""
        step, rule = self._tape.steps[number], self._rules[number]
        if rule is None or number in flight.seeds:
            return False
        dirty = {slot: flight.box(read) for slot, read in enumerate(step.reads) if read.cell in flight.dirty}
        known = {slot: box for slot, box in dirty.items() if box is not None}
        if len(known) < len(dirty):
            return False
        size = self._tape.cells[step.made[0]].size
        reach = rule.reach(step, known, size)
        if reach is None:
            return False
        if volume(reach) == 0:
            return True  # nothing reads what differs
        for box in rule.results(reach, size):
            if volume(box) > _WORTH * math.prod(size) or not self._maps(step, rule.operands(step, box)):
                return False
            if self._trust.boxes(rule, number, box, 1, flight.golden):
                self._jobs.append(_Job(flight, rule, reach, box))
                return True
        return False

    def _maps(self, step: Step, fields: Mapping[int, Box]) -> bool:
        """Say whether a box of each operand is a box of its cell, which may have another shape."""
        for slot, field in fields.items():
            read = step.reads[slot]
            size = self._tape.cells[read.cell].size
            if read.size != size and volume(reshaped(field, read.size, size)) != volume(field):
                return False
        return True

    def run(self, number: int) -> None:
        """Compute all queued boxes of step ``number``."""
        step, jobs, self._jobs = self._tape.steps[number], self._jobs, []
        groups: dict[tuple[int, ...], list[_Job]] = {}
        for job in jobs:
            groups.setdefault(tuple(high - low for low, high in job.box), []).append(job)
        for group in groups.values():
            for chunk in self._chunks(number, group):
                results = run_boxes(
                    chunk[0].rule, step, [job.box for job in chunk], [job.flight.inside for job in chunk]
                )
                for job, result in zip(chunk, results, strict=True):
                    for old, _ in step.rewrites:
                        job.flight.dirty.pop(old, None)
                    part = result if job.reach == job.box else cut(result, relative(job.reach, job.box))
                    job.flight.dirty[step.made[0]] = Dirty(part.contiguous(), job.reach)

    def _chunks(self, number: int, group: list[_Job]) -> Iterator[list[_Job]]:
        while group:
            first = group[0]
            sizes = CHUNKS if first.rule.stacked else (1,)
            fitting = (n for n in sizes if n <= len(group))
            size = next(n for n in fitting if n == 1 or self._trusted(number, first, n))
            yield group[:size]
            group = group[size:]

    def _trusted(self, number: int, job: _Job, count: int) -> bool:
        return self._trust.boxes(job.rule, number, job.box, count, job.flight.golden)

    def stack(self, number: int, flights: Sequence[Flight]) -> list[Flight]:
        """Compute step ``number`` for several flights in one call where that gives the same bits; return the rest."""
        step, rule = self._tape.steps[number], self._rules[number]
        ready = [flight for flight in flights if number not in flight.seeds]
        if not isinstance(rule, Linear | Sliding) or not rule.stacked or len(ready) < 2:
            return list(flights)
        slot = next(slot for slot, read in enumerate(step.reads) if read.cell >= 0)
        while len(ready) > 1:
            fitting = (n for n in CHUNKS if n <= len(ready))
            size = next(n for n in fitting if n == 1 or self._trust.rows(number, slot, n, ready[0].golden))
            if size == 1:
                break
            self._together(step, slot, ready[:size])
            ready = ready[size:]
        done = {id(flight) for flight in flights} - {id(flight) for flight in ready}
        return [f for f in flights if id(f) not in done or number in f.seeds]

    def _together(self, step: Step, slot: int, flights: Sequence[Flight]) -> None:
        read = step.reads[slot]
        parts = [read.constant for read in step.reads]
        parts[slot] = torch.cat([read.of(flight.value(read.cell)) for flight in flights])
        result = step.call(*[parts[item.index] if type(item) is Slot else item for item in step.args])
        for flight, row in zip(flights, result.split(len(result) // len(flights)), strict=True):
            aligned = row if row.data_ptr() % _ALIGNED == 0 else row.clone()
            flight.dirty[step.makes[0][0]] = Dirty(aligned)
