"""The engine ``suffix``: it replays a captured graph from the fault on."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from holdfast.errors import InvalidConfig
from holdfast.execution.engines.catalogue import Images, engines
from holdfast.execution.engines.suffix.capture import capture
from holdfast.execution.engines.suffix.golden import Golden, total_bytes
from holdfast.execution.engines.suffix.replay import Replay, leave_counts
from holdfast.execution.engines.suffix.tape import Tape
from holdfast.execution.injection import STORED
from holdfast.execution.plan import Block, Trial
from holdfast.models import card

MEMORY = 2048  # MiB of golden values
_ANEW = 2


@engines.register("suffix")
class Suffix:
    """Golden passes are cached, and a trial computes only what its fault changes, bit for bit as one row alone.

    Args:
        model: captured at the first use, for each shape of sample.
        images: returns inputs by number.
        memory: MiB of golden values to keep, over all inputs; the oldest pass is dropped first, and a pass that is
            larger by itself keeps some of its values and computes the others again.

    Raises:
        InvalidConfig: at the first use, a model that cannot be captured; the message says why.
    """

    name = "suffix"

    def __init__(self, model: nn.Module, images: Images, *, memory: int = MEMORY) -> None:
        if memory < 1:
            raise InvalidConfig(f"a memory of {memory} MiB holds no golden pass")
        self._model, self._images, self._budget = model, images, memory * 2**20
        self._replays: dict[tuple[object, ...], tuple[Tape, Replay]] = {}
        self._asked: Counter[int] = Counter()
        self._passes: OrderedDict[int, tuple[Golden, Replay]] = OrderedDict()

    def golden(self, inputs: tuple[int, ...]) -> Tensor:
        """Return the fault-free outputs, each computed alone; anew the first two times, so that a difference shows."""
        found = {}
        for number in dict.fromkeys(inputs):
            self._asked[number] += 1
            found[number] = self._pass(number, again=self._asked[number] <= _ANEW)[0]
        rows = [found[number] for number in inputs]
        leave_counts(card(self._model).guards, rows)
        return torch.cat([golden.output() for golden in rows])

    def faulty(self, block: Block) -> Tensor:
        """Return the output in which row k met trial k, computed as if alone.

        Raises:
            NoSuchSite: a site did not compute in the pass.
        """
        rows: list[Tensor] = []
        passes = {trial.input: self._pass(trial.input) for trial in block}
        replays = {id(replay): replay for _, replay in passes.values()}
        if len(replays) == 1:
            replay = next(iter(replays.values()))
            output = replay.outputs(block, [passes[trial.input][0] for trial in block])
        else:  # samples of several shapes
            rows = [passes[trial.input][1].outputs([trial], [passes[trial.input][0]]) for trial in block]
            output = torch.cat(rows)
        for golden, _ in passes.values():
            golden.forget()
        return output

    def blocks(self, trials: Sequence[Trial], batch: int) -> list[Block]:
        """Cut trials into blocks of at most ``batch``, those of one input together."""
        ordered = sorted(trials, key=lambda trial: trial.input)
        return [tuple(ordered[start : start + batch]) for start in range(0, len(ordered), batch)]

    def together(self, block: Block) -> bool:
        """Say whether the trials of ``block`` may share a pass: a stored bit is flipped for its own trial only."""
        return True

    def prepare(self, number: int) -> None:
        """Capture the model on input ``number``.

        Raises:
            InvalidConfig: it cannot be captured.
        """
        self._replay(self._images([number]))

    def knows(self, trial: Trial) -> bool:
        """Say whether every site of ``trial`` is on the tape or stored."""
        tape = self._replay(self._images([trial.input]))[0]
        return all(f.site.kind in STORED or (f.site.kind, f.site.name) in tape.marks for f in trial.flips)

    def _pass(self, number: int, again: bool = False) -> tuple[Golden, Replay]:
        found = self._passes.pop(number, None)
        if found is None or again:
            sample = self._images([number])
            tape, replay = self._replay(sample)
            found = Golden(tape, sample.clone(), self._budget), replay
        self._passes[number] = found
        while len(self._passes) > 1 and total_bytes(item for item, _ in self._passes.values()) > self._budget:
            self._passes.popitem(last=False)
        return found

    def _replay(self, sample: Tensor) -> tuple[Tape, Replay]:
        key = (tuple(sample.shape), tuple(sample.stride()), sample.dtype, sample.device)
        if key not in self._replays:
            tape = capture(self._model, sample)
            self._replays[key] = tape, Replay(self._model, tape)
        return self._replays[key]
