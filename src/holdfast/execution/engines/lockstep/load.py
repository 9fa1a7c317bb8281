"""What the trials of one batch do to its pass: flips that wait at steps, and stored bits that steps read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from holdfast.errors import NoSuchSite
from holdfast.execution.condition import Flips
from holdfast.execution.engines.lockstep.layout import Layouts, Rows
from holdfast.execution.engines.suffix.tape import Mark, Tape
from holdfast.execution.engines.suffix.trial import read_of
from holdfast.execution.injection import STORED
from holdfast.execution.plan import Trial

Waiting = list[tuple[int, Mark, int, Flips]]  # place of the mark in a pass, the mark, row, flips


@dataclass(frozen=True, slots=True)
class Load:
    """The faults of a batch.

    Attributes:
        waiting: position -> flips in what is computed, before that step.
        due: step -> (row, flips in what it reads from memory).
        alone: the batch is one trial, so that every row may meet its flips in memory.
    """

    waiting: dict[int, Waiting] = field(default_factory=dict)
    due: dict[int, list[tuple[int, list[Flips]]]] = field(default_factory=dict)
    alone: bool = True

    @classmethod
    def of(cls, tape: Tape, trials: Sequence[Trial]) -> Load:
        """Return the faults of ``trials``, row k those of trial k.

        Raises:
            NoSuchSite: a site is not on the tape.
        """
        waiting: dict[int, Waiting] = {}
        due: dict[int, list[tuple[int, list[Flips]]]] = {}
        order = {name: place for place, name in enumerate(tape.marks)}
        for row, trial in enumerate(trials):
            for flips in trial.flips:
                if flips.site.kind not in STORED:
                    name = flips.site.kind, flips.site.name
                    mark = _mark(tape, flips)
                    waiting.setdefault(mark.position, []).append((order[name], mark, row, flips))
            memory = [flips for flips in trial.flips if flips.site.kind in STORED]
            for step in seeds(tape, trial):
                due.setdefault(step, []).append((row, memory))
        return cls(waiting, due, len(trials) == 1)

    @property
    def first(self) -> int | None:
        """The first step that differs, if any."""
        return min([*self.waiting, *self.due], default=None)

    def within(self, start: int, stop: int) -> bool:
        """Say whether anything happens at the steps from ``start`` to ``stop``."""
        return any(start <= place < stop for place in (*self.waiting, *self.due))


def _mark(tape: Tape, flips: Flips) -> Mark:
    mark = tape.marks.get((flips.site.kind, flips.site.name))
    if mark is None:
        raise NoSuchSite(f"{flips.site.address} is not on the tape", hint="engine='hooks' runs whole passes")
    return mark


def seeds(tape: Tape, trial: Trial) -> set[int]:
    """Return the steps that read stored bits which ``trial`` flips."""
    names = {read_of(flips) for flips in trial.flips if flips.site.kind in STORED}
    return {step for name in names for step in tape.readers.get(name, ())}


def knows(tape: Tape, trial: Trial) -> bool:
    """Say whether every site of ``trial`` is on the tape or stored."""
    return all(f.site.kind in STORED or (f.site.kind, f.site.name) in tape.marks for f in trial.flips)


def start_of(tape: Tape, trial: Trial) -> int:
    """Return the first step that differs; one beyond the last where none does."""
    first = Load.of(tape, [trial]).first
    return len(tape.steps) if first is None else first


def spreads(tape: Tape, layouts: Layouts, trial: Trial) -> bool:
    """Say whether flipped memory of ``trial`` changes what all rows of a batch may share, so that it must be alone."""
    made = ((step, cell) for step in seeds(tape, trial) for cell in tape.steps[step].made)
    return any(tape.last_use[cell] > step and _shared(layouts[cell]) for step, cell in made)


def _shared(rows: Rows | None) -> bool:
    return rows is None or rows.steady
