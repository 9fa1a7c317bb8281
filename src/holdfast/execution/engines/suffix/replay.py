"""Replaying trials: all of a block march through the tape together, each from its fault on and only where it differs.

Clean cells come from the golden pass, so that a step runs only if it reads something dirty. A trial whose last dirty
cell turns out bit-equal to the golden one is over: its output is the golden output.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from holdfast.execution.engines.suffix.dirty import Dirty
from holdfast.execution.engines.suffix.golden import Golden, execute
from holdfast.execution.engines.suffix.rules import ABSORBING, RULES, Linear
from holdfast.execution.engines.suffix.tape import Step, Tape
from holdfast.execution.engines.suffix.trial import Flight
from holdfast.execution.engines.suffix.windows import Windows
from holdfast.execution.plan import Trial
from holdfast.models.guard_kinds import AnyGuard

_PATIENCE = 4


class Replay:
    """Replays blocks of trials on one tape."""

    def __init__(self, model: nn.Module, tape: Tape) -> None:
        self._model, self._tape = model, tape
        self._windows = Windows(tape)
        self._fruitless: Counter[int] = Counter()  # searches of a step's whole result that narrowed nothing

    def outputs(self, trials: Sequence[Trial], goldens: Sequence[Golden]) -> Tensor:
        """Return the outputs of ``trials``, row k that of trial k on the sample of ``goldens[k]``."""
        pairs = zip(trials, goldens, strict=True)
        flights = [Flight(self._model, self._tape, golden, trial) for trial, golden in pairs]
        self._march(flights)
        leave_counts(self._tape.guards, flights)
        return torch.cat([flight.output() for flight in flights])

    def _march(self, flights: Sequence[Flight]) -> None:
        steps = self._tape.steps
        for number in range(min(flight.start for flight in flights), len(steps)):
            flying = [flight for flight in flights if not flight.masked]
            if not flying:
                return
            for flight in flying:
                flight.arrive(number)
            self._step(number, steps[number], [flight for flight in flying if flight.concerned(number, steps[number])])
        for flight in flights:
            flight.arrive(len(steps))

    def _step(self, number: int, step: Step, flights: Sequence[Flight]) -> None:
        whole = [flight for flight in flights if not self._windows.take(number, flight)]
        self._windows.run(number)
        for flight in self._windows.stack(number, whole):
            self._dense(number, step, flight)
        for flight in flights:
            flight.leave(number, step)
            self._settle(number, step, flight)

    def _settle(self, number: int, step: Step, flight: Flight) -> None:
        """Compare what a step made with the golden pass, where that may end the trial or narrow what differs."""
        for cell in step.made:
            found = flight.dirty.get(cell)
            if found is None:
                continue
            if found.box is not None:
                narrow = step.call in ABSORBING
            else:
                narrow = number in flight.seeds or self._promising(number, step)
            if narrow or step.call in ABSORBING or len(flight.dirty) == 1:
                flight.settle(cell, narrow=narrow)
                if found.box is None and cell in flight.dirty:
                    self._fruitless[number] += 1 if flight.dirty[cell].box is None else -_PATIENCE

    def _promising(self, number: int, step: Step) -> bool:
        """Say whether to search the product of a linear layer: behind causal attention early tokens are untouched."""
        return isinstance(RULES.get(step.call), Linear) and self._fruitless[number] < _PATIENCE

    def _dense(self, number: int, step: Step, flight: Flight) -> None:
        written = {old for old, _ in step.rewrites}
        with flight.memory(number):
            held = {cell: flight.own(cell) if cell in written else flight.value(cell) for cell in step.cells}
            made = execute(step, held)
        for cell in written:
            del flight.dirty[cell]
        flight.dirty.update((cell, Dirty(holder)) for cell, holder in made.items())
        if step.guard >= 0:
            guard = self._tape.guards[step.guard]
            flight.events[step.guard], flight.alarms[step.guard] = guard.events, getattr(guard, "alarms", None)


def leave_counts(guards: Sequence[AnyGuard], rows: Sequence[Golden | Flight]) -> None:
    """Leave in every guard what it counted, row by row, as one pass of the whole block would."""
    for number, guard in enumerate(guards):
        guard.events = _rows([row.events[number] for row in rows])  # type: ignore[misc]
        if hasattr(guard, "alarms"):
            guard.alarms = _rows([row.alarms[number] for row in rows])


def _rows(counts: Sequence[Tensor | None]) -> Tensor | None:
    known = [count for count in counts if count is not None]
    return torch.cat(known) if len(known) == len(counts) and known else None
