"""The engine ``lockstep``: whole batches of trials, each from the first cut before its faults on.

**The reference is a whole pass of the same batch size.** A row has the bits that ``hooks`` gives it as a row of a full
batch: every kernel gets the shapes, strides and values that it gets there. What a row's bits may not depend on, its
place and the rows beside it, is tried before anything is counted, and a model that fails is refused.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from holdfast.errors import InvalidConfig
from holdfast.execution.engines.catalogue import Images, engines
from holdfast.execution.engines.lockstep.load import knows, start_of
from holdfast.execution.engines.lockstep.proof import require_equal
from holdfast.execution.engines.lockstep.track import Track
from holdfast.execution.memory import is_out_of_memory, too_small
from holdfast.execution.plan import Block, Trial

_log = logging.getLogger(__name__)
_ROWS, _MIB, _ON_CPU, _SHARE = 32, 2**20, 2048, 2


@engines.register("lockstep")
class Lockstep:
    """Batches of golden rows are loaded where the first fault of a batch is near, and run to the end.

    Args:
        model: captured at the first use, for each shape of input.
        images: returns inputs by number.
        rows: of a batch; 0 for the size of the campaign's blocks.
        streams: batches in flight at once, on a CUDA device.
        memory: MiB of golden rows to keep; 0 for 2048 on a CPU and half of what is free on a CUDA device.
        graphs: whether to replay CUDA graphs where no fault strikes.

    Attributes:
        rows: of a batch, as it is now: a batch that does not fit in memory is halved for good, and that is logged.

    Raises:
        InvalidConfig: an option out of range; at the first use, a model that cannot be computed so.
    """

    name = "lockstep"

    def __init__(
        self, model: nn.Module, images: Images, *, rows: int = 0, streams: int = 1, memory: int = 0, graphs: bool = True
    ) -> None:
        if min(rows, memory) < 0 or streams < 1:
            raise InvalidConfig("lockstep takes at least one stream, and no negative number of rows or MiB")
        self._model, self._images, self._streams, self._memory = model, images, streams, memory
        self._asked, self._graphs = rows, graphs
        self.rows = rows or _ROWS
        self._tracks: dict[tuple[object, ...], Track] = {}
        self._shapes: dict[int, tuple[object, ...]] = {}

    def size(self, batch: int) -> None:
        """Compute ``batch`` rows at a time, unless an option said how many."""
        if not self._asked:
            self.rows = batch

    def halve(self) -> bool:
        """Compute half as many rows at a time from now on; say whether there were two."""
        if self.rows < 2:
            return False
        _log.warning("out of memory with %d rows in lockstep, going on with %d", self.rows, self.rows // 2)
        self.rows //= 2
        self._tracks.clear()
        return True

    def golden(self, inputs: tuple[int, ...]) -> Tensor:
        """Return the fault-free outputs, each as a row of a full batch."""
        return self._track(inputs[0]).golden(inputs)

    def faulty(self, block: Block) -> Tensor:
        """Return the output in which row k met trial k.

        Raises:
            NoSuchSite: a site did not compute in the pass.
        """
        return self._track(block[0].input).faulty(block)

    def blocks(self, trials: Sequence[Trial], batch: int) -> list[Block]:
        """Cut trials into full batches that begin at one place; those of inputs that fit in memory together first."""
        if not trials:
            return []
        apart = [trial for trial in trials if self._track(trial.input).alone(trial)]
        lone = {trial.number for trial in apart}
        groups: dict[tuple[object, ...], list[Trial]] = {}
        shelves = self._shelves(trials)
        for trial in trials:
            if trial.number not in lone:
                groups.setdefault((self._shapes[trial.input], shelves[trial.input]), []).append(trial)
        size = self.rows * self._streams
        blocks = []
        for group in groups.values():
            track = self._track(group[0].input)
            group.sort(key=lambda trial: (start_of(track.tape, trial), trial.number))
            blocks += [tuple(group[start : start + size]) for start in range(0, len(group), size)]
        return blocks + [(trial,) for trial in apart]

    def _shelves(self, trials: Sequence[Trial]) -> dict[int, int]:
        """Return which part of the inputs each belongs to; each part fits in memory."""
        found: dict[int, int] = {}
        for place, number in enumerate(sorted({trial.input for trial in trials})):
            found[number] = place // self._track(number).shelf.room
        return found

    def together(self, block: Block) -> bool:
        """Say whether the trials of ``block`` may share a batch."""
        track = self._track(block[0].input)
        alike = all(self._shape(trial.input) == self._shape(block[0].input) for trial in block)
        return alike and not any(track.alone(trial) for trial in block)

    def prepare(self, number: int) -> None:
        """Capture the model for batches of inputs like input ``number``, and prove them.

        Raises:
            InvalidConfig: it cannot be computed so; the message says why.
        """
        self._track(number)

    def knows(self, trial: Trial) -> bool:
        """Say whether every site of ``trial`` is on the tape or stored."""
        return knows(self._track(trial.input).tape, trial)

    def _shape(self, number: int) -> tuple[object, ...]:
        if number not in self._shapes:
            sample = self._images([number])
            self._shapes[number] = tuple(sample.shape[1:]), sample.dtype, sample.device
        return self._shapes[number]

    def _track(self, number: int) -> Track:
        key = self._shape(number)
        while key not in self._tracks:
            try:
                self._tracks[key] = self._made(self._images([number]))
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                if not self.halve():
                    raise too_small() from error
        return self._tracks[key]

    def _made(self, sample: Tensor) -> Track:
        track = Track(self._model, sample, self.rows, streams=self._streams, budget=self._budget(sample))
        if self._graphs and sample.device.type == "cuda":
            self._record(track)
        require_equal(self._model, track)
        track.images = self._images
        return track

    def _budget(self, sample: Tensor) -> int:
        if self._memory:
            return self._memory * _MIB
        if sample.device.type != "cuda":
            return _ON_CPU * _MIB
        return int(torch.cuda.mem_get_info(sample.device)[0]) // _SHARE

    @staticmethod
    def _record(track: Track) -> None:
        for lane in track.lanes:
            if (reason := lane.record({0: track.example})) is not None:
                _log.warning("the suffix runs without CUDA graphs: %s", reason)
                return
