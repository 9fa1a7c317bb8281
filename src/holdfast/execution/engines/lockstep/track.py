"""A model captured for batches of one shape, with the golden rows of inputs, and lanes that run faulty batches."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from holdfast.execution.engines.lockstep.graphs import on
from holdfast.execution.engines.lockstep.lane import Lane
from holdfast.execution.engines.lockstep.layout import cuts_of, layouts_of, require_rows_first, strangers
from holdfast.execution.engines.lockstep.load import Load, spreads, start_of
from holdfast.execution.engines.lockstep.march import March
from holdfast.execution.engines.lockstep.shelf import Counts, Shelf
from holdfast.execution.engines.suffix.capture import capture
from holdfast.execution.plan import Trial

_log = logging.getLogger(__name__)
_CUTS = 32
Images = Callable[[Sequence[int]], Tensor]


class Track:
    """Golden and faulty batches of ``count`` rows.

    Args:
        model: in evaluation mode.
        sample: one input, shape (1, ...).
        count: rows of a batch, always all of them.
        streams: batches in flight at once, on a CUDA device.
        budget: bytes of golden rows.

    Attributes:
        images: returns inputs by number; the rows of an example until it is set.

    Raises:
        InvalidConfig: the model cannot be captured, its rows depend on each other at this count, or a guard counts
            something else than rows.
    """

    def __init__(self, model: nn.Module, sample: Tensor, count: int, *, streams: int, budget: int) -> None:
        self.count = count
        self.example = strangers(sample, count)
        self.example[0] = sample[0]
        self.images: Images = lambda numbers: self.example[list(numbers)]
        self.tape = capture(model, self.example, operands=True)
        self.layouts, self.dtypes = layouts_of(self.tape, self.example)
        require_rows_first(self.tape, self.layouts)
        self.cuts = cuts_of(self.tape, _CUTS)
        march = March(model, self.tape, self.layouts)
        cuda = sample.device.type == "cuda"
        made = [torch.cuda.Stream(sample.device) if cuda else None for _ in range(streams)]
        self.lanes = [Lane(march, self.cuts, stream) for stream in made]
        self.shelf = Shelf(self.tape, self.layouts, self.cuts, count, budget)
        self._guards = {step.guard: place for place, step in enumerate(self.tape.steps) if step.guard >= 0}
        self._warm_up()

    def _warm_up(self) -> None:
        """Run one batch, from which follows how many fit."""
        self._ensure(range(self.count))
        self.shelf.fit(self.count * len(self.lanes))
        self.shelf.forget()

    def _ensure(self, numbers: Sequence[int]) -> None:
        """Have the golden rows of inputs, no more than there is room for, on the shelf."""
        while missing := self.shelf.missing(numbers):
            group = missing[: self.count]
            self._golden(group, self.images(group))

    def _golden(self, numbers: Sequence[int], samples: Tensor) -> None:
        batch = torch.cat([samples, samples[:1].expand(self.count - len(samples), *samples.shape[1:])])
        places, lane = self.shelf.reserve(numbers), self.lanes[0]
        with on(lane.stream):
            output = lane.run(0, {0: batch}, Load(), lambda cut, held: self.shelf.keep(cut, held, places))
            guards = self.tape.guards
            alarms = [getattr(guard, "alarms", None) for guard in guards]
            self.shelf.keep_answers(output, {"events": [g.events for g in guards], "alarms": alarms}, places)
        self._join()
        self.shelf.enter(numbers, places)

    def golden(self, numbers: Sequence[int]) -> Tensor:
        """Return the golden outputs of inputs, and leave in each guard what it counted."""
        parts, counted = [], []
        for some in self._fitting(numbers):
            self._ensure(numbers[some])
            places = self.shelf.places(numbers[some])
            parts.append(self.shelf.outputs(places))
            counted.append([self._kept(guard, places) for guard in range(len(self.tape.guards))])
        self._leave(counted)
        return torch.cat(parts)

    def faulty(self, trials: Sequence[Trial]) -> Tensor:
        """Return the outputs of ``trials``; row k met trial k. Leave in each guard what it counted."""
        parts: list[Tensor] = []
        counted: list[list[Counts]] = []
        numbers = [trial.input for trial in trials]
        for some in self._fitting(numbers):
            self._ensure(numbers[some])
            self._launch(trials[some], parts, counted)
        self._leave(counted)
        return torch.cat(parts)

    def _fitting(self, numbers: Sequence[int]) -> list[slice]:
        """Cut inputs into parts that fit on the shelf together.

        The room may be less than what was asked for at once, such as in a block that was cut before memory ran out.
        """
        cuts, here = [0], set[int]()
        for place, number in enumerate(numbers):
            if number not in here and len(here) == self.shelf.room:
                cuts.append(place)
                here.clear()
            here.add(number)
        return [slice(start, stop) for start, stop in pairwise([*cuts, len(numbers)])]

    def _launch(self, trials: Sequence[Trial], parts: list[Tensor], counted: list[list[Counts]]) -> None:
        """Run trials of inputs on the shelf, a batch on each lane in turn; the current stream waits for them."""
        for turn, start in enumerate(range(0, len(trials), self.count)):
            group, lane = trials[start : start + self.count], self.lanes[turn % len(self.lanes)]
            load = Load.of(self.tape, group)
            if load.due:  # it flips stored bits for a moment, and all lanes read them
                self._join()
            with on(lane.stream):
                parts.append(self._run(lane, group, load)[: len(group)])
                counted.append([self._counts(guard, group) for guard in range(len(self.tape.guards))])
            if load.due:
                self._join()
        self._join()

    def _run(self, lane: Lane, group: Sequence[Trial], load: Load) -> Tensor:
        places = self.shelf.places([trial.input for trial in group])
        padded = torch.cat([places, places[:1].expand(self.count - len(places))])
        cut = self.cut_of(group)
        return lane.run(cut, self.shelf.load(self.cuts[cut], padded), load)

    def cut_of(self, group: Sequence[Trial]) -> int:
        """Return the number of the last cut before anything in ``group`` differs."""
        start = min(start_of(self.tape, trial) for trial in group)
        return max(number for number, cut in enumerate(self.cuts) if cut <= start)

    def alone(self, trial: Trial) -> bool:
        """Say whether ``trial`` changes what all rows of a batch share."""
        return spreads(self.tape, self.layouts, trial)

    def _counts(self, guard: int, group: Sequence[Trial]) -> Counts:
        """Return events and alarms of the rows of a group; of a guard before its first cut, the golden ones."""
        if self._guards[guard] < self.cuts[self.cut_of(group)]:
            return self._kept(guard, self.shelf.places([trial.input for trial in group]))
        found = self.tape.guards[guard].events, getattr(self.tape.guards[guard], "alarms", None)
        rows = [None if count is None or count.numel() % self.count else count for count in found]
        first = [None if count is None else count.reshape(self.count, -1)[: len(group)] for count in rows]
        return [None if count is None else count.flatten().clone() for count in first]  # a graph writes there again

    def _kept(self, guard: int, places: Tensor) -> Counts:
        return [self.shelf.counts(name, guard, places) for name in ("events", "alarms")]

    def _leave(self, counted: Sequence[Sequence[Counts]]) -> None:
        """Leave in each guard what it counted in all parts."""
        for known, found in zip(self.tape.guards, zip(*counted, strict=True), strict=True):
            counts = [_joined(column) for column in zip(*found, strict=True)]
            known.events = counts[0]  # type: ignore[misc]
            if hasattr(known, "alarms"):
                known.alarms = counts[1]

    def _join(self) -> None:
        """Have the current stream wait for what the lanes were given, and so whatever they are given next."""
        for stream in (lane.stream for lane in self.lanes):
            if stream is not None:
                torch.cuda.current_stream(stream.device).wait_stream(stream)


def _joined(parts: Sequence[Tensor | None]) -> Tensor | None:
    known = [part for part in parts if part is not None]
    return torch.cat(known) if len(known) == len(parts) else None
