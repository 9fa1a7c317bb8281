"""Segments of a tape as CUDA graphs: captured once per lane, with tensors that stay where they are.

A graph repeats the launches of a pass without Python, on the memory in which it was captured. So a batch that comes
from elsewhere is first copied to where the graph reads it, and its results lie where the next graph reads them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from holdfast._kernels.capture import recorded
from holdfast.execution.engines.lockstep.layout import live
from holdfast.execution.engines.lockstep.load import Load
from holdfast.execution.engines.lockstep.march import Held, March
from holdfast.execution.memory import is_out_of_memory

_log = logging.getLogger(__name__)
Replay = Callable[[], None]


class Recorder(Protocol):
    """Turns launches into something that repeats them on the same memory."""

    def record(self, body: Callable[[], None]) -> Replay:
        """Run ``body`` once and return what repeats it.

        Raises:
            RuntimeError: something in it cannot be repeated.
        """
        ...


class CudaRecorder:
    """Records CUDA graphs on one stream; all share one pool of memory, since they are replayed in order."""

    def __init__(self, stream: torch.cuda.Stream) -> None:
        self._stream, self._pool = stream, torch.cuda.graph_pool_handle()

    def record(self, body: Callable[[], None]) -> Replay:
        """Capture ``body``; nothing of it is computed yet."""
        return recorded(body, stream=self._stream, pool=self._pool, errors="thread_local")


@dataclass(frozen=True, slots=True)
class _Segment:
    taken: Held  # where it reads what is alive before it
    given: Held  # where it leaves what is alive after it
    counts: dict[int, tuple[Tensor | None, Tensor | None]]  # guard -> events and alarms
    replay: Replay = field(repr=False)


class Graphs:
    """The segments of one march between ``cuts``, recorded in order.

    Args:
        march: what runs the steps.
        cuts: where segments begin; the first is 0.
        recorder: makes them repeatable.
    """

    def __init__(self, march: March, cuts: Sequence[int], recorder: Recorder) -> None:
        self._march, self._cuts, self._recorder = march, tuple(cuts), recorder
        self._segments: list[_Segment] = []

    def record(self, held: Held) -> str | None:
        """Record all segments for batches laid out as ``held``, what is alive at 0; return why not, or None."""
        taken = {cell: holder.clone() for cell, holder in held.items()}
        for number, start in enumerate(self._cuts):
            stop = self.stop(number)
            try:
                self._segments.append(self._recorded(start, stop, taken))
            except RuntimeError as error:
                if is_out_of_memory(error):
                    raise
                self._segments.clear()
                what = next(iter(str(error).splitlines()), type(error).__name__)
                return f"steps {start} to {stop} cannot be captured: {what}"
            taken = self._segments[-1].given
        return None

    def stop(self, number: int) -> int:
        """Return where segment ``number`` ends."""
        ends = (*self._cuts[1:], len(self._march.tape.steps))
        return ends[number]

    def _recorded(self, start: int, stop: int, taken: Held) -> _Segment:
        given: Held = {}
        counts: dict[int, tuple[Tensor | None, Tensor | None]] = {}
        tape = self._march.tape
        numbers = {step.guard for step in tape.steps[start:stop] if step.guard >= 0}

        def body() -> None:
            held = dict(taken)
            self._march.run(start, stop, held, Load())
            given.clear()
            given.update((cell, held[cell]) for cell in live(tape, stop))
            counts.update((n, (tape.guards[n].events, getattr(tape.guards[n], "alarms", None))) for n in numbers)

        return _Segment(taken, given, counts, self._recorder.record(body))

    def run(self, number: int, held: Held) -> Held:
        """Run segment ``number`` on ``held`` and return what is alive after it; that stays until the next call."""
        segment = self._segments[number]
        for cell, place in segment.taken.items():
            if held[cell] is not place:
                place.copy_(held[cell])
        segment.replay()
        for guard, (events, alarms) in segment.counts.items():
            self._march.tape.guards[guard].events = events  # type: ignore[misc]
            if alarms is not None:
                self._march.tape.guards[guard].alarms = alarms  # type: ignore[union-attr]
        return dict(segment.given)


@contextmanager
def on(stream: torch.cuda.Stream | None) -> Iterator[None]:
    """Launch on ``stream`` after what the current one was given; None changes nothing."""
    if stream is None:
        yield
        return
    stream.wait_stream(torch.cuda.current_stream(stream.device))
    with torch.cuda.stream(stream):
        yield
