"""One lane: batches go through it one after the other, on a stream of its own and, where possible, as CUDA graphs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from holdfast.execution.engines.lockstep.graphs import CudaRecorder, Graphs, Recorder
from holdfast.execution.engines.lockstep.load import Load
from holdfast.execution.engines.lockstep.march import Held, March

_log = logging.getLogger(__name__)
Keep = Callable[[int, Held], None]


class Lane:
    """Runs batches from a cut on.

    Args:
        march: what runs the steps.
        cuts: positions at which a batch may begin; the first is 0.
        stream: where launches go; None for the current stream, and on a CPU.
    """

    def __init__(self, march: March, cuts: Sequence[int], stream: torch.cuda.Stream | None = None) -> None:
        self._march, self._cuts, self.stream = march, tuple(cuts), stream
        self._ends = (*self._cuts[1:], len(march.tape.steps))
        self._graphs: Graphs | None = None

    def record(self, held: Held, recorder: Recorder | None = None) -> str | None:
        """Record graphs for batches laid out as ``held``, the cells alive at 0; return why not, or None."""
        if recorder is None:
            if self.stream is None:
                return "there is no CUDA stream"
            recorder = CudaRecorder(self.stream)
        graphs = Graphs(self._march, self._cuts, recorder)
        if (reason := graphs.record(held)) is None:
            self._graphs = graphs
        return reason

    def drop(self) -> None:
        """Run without graphs from now on."""
        self._graphs = None

    @property
    def recorded(self) -> bool:
        """Whether segments without faults are replayed as graphs."""
        return self._graphs is not None

    def run(self, cut: int, held: Held, load: Load, keep: Keep | None = None) -> Tensor:
        """Run a batch from cut number ``cut`` to the end and return its output, a tensor of its own.

        Args:
            cut: where it begins.
            held: what is alive there; is written to.
            load: the faults of its rows.
            keep: sees what is alive at every cut.
        """
        for number in range(cut, len(self._cuts)):
            start, stop = self._cuts[number], self._ends[number]
            if keep is not None:
                keep(start, held)
            if self._graphs is None or load.within(start, stop):
                self._march.run(start, stop, held, load)
            else:
                held = self._graphs.run(number, held)
        self._march.strike(len(self._march.tape.steps), held, load)
        read = self._march.tape.output
        return read.of(held[read.cell]).clone()
