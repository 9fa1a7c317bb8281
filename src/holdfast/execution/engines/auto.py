"""The engine ``auto``: suffix re-execution where the model can be captured, whole passes where it cannot.

On a GPU the suffix is that of whole batches: there a single trial leaves most of the device idle.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from holdfast._kernels import device as devices
from holdfast.errors import InvalidConfig
from holdfast.execution.engines.catalogue import Engine, Images, engines
from holdfast.execution.engines.hooks import Hooks
from holdfast.execution.engines.lockstep import Lockstep
from holdfast.execution.engines.suffix.engine import MEMORY, Suffix
from holdfast.execution.plan import Block, Trial
from holdfast.execution.run import device_of

_LEAST = 20  # a replay spends about a millisecond of Python on a trial


@engines.register("auto")
class Auto:
    """Chooses an engine at the first use and says which, and why; the same on every machine.

    Args:
        model: any module.
        images: returns inputs by number.
        memory: MiB of golden values to keep; 0 for what the engine thinks right.
        streams: batches in flight at once, on a GPU.
        least: million multiply-adds that a pass must take; many whole passes at once are faster when it takes less;
            on a GPU, where launching is what takes long, that is not asked.

    Attributes:
        chosen: ``suffix``, ``lockstep`` (on a GPU) or ``hooks``; None before the first use.
        reason: why whole passes are run; None otherwise.
    """

    name = "auto"

    def __init__(
        self, model: nn.Module, images: Images, *, memory: int = 0, streams: int = 1, least: int = _LEAST
    ) -> None:
        self._model, self._images, self._least = model, images, least
        self._plain = Hooks(model, images)
        self._resident = device_of(model).type in devices.KINDS
        self._suffix: Suffix | Lockstep
        if self._resident:
            self._suffix = Lockstep(model, images, memory=memory, streams=streams)
        else:
            self._suffix = Suffix(model, images, memory=memory or MEMORY)
        self.chosen: str | None = None
        self.reason: str | None = None

    def golden(self, inputs: tuple[int, ...]) -> Tensor:
        """Return the fault-free output of a batch of inputs."""
        return self._engine(inputs[0]).golden(inputs)

    def faulty(self, block: Block) -> Tensor:
        """Return the output in which row k met trial k.

        Raises:
            NoSuchSite: a site did not compute in the pass.
        """
        engine = self._engine(block[0].input)
        if engine is self._suffix and not all(self._suffix.knows(trial) for trial in block):
            engine = self._plain
        return engine.faulty(block)

    def blocks(self, trials: Sequence[Trial], batch: int) -> list[Block]:
        """Cut trials into blocks; one whose site is not on the tape runs alone, where engines give equal bits."""
        if not trials or self._engine(trials[0].input) is self._plain:
            return self._plain.blocks(trials, batch)
        known = [trial for trial in trials if self._suffix.knows(trial)]
        rest = [trial for trial in trials if not self._suffix.knows(trial)]
        return self._suffix.blocks(known, batch) + self._plain.blocks(rest, 1)

    def together(self, block: Block) -> bool:
        """Say whether the trials of ``block`` may share a pass."""
        if self._engine(block[0].input) is self._plain:
            return self._plain.together(block)
        return all(self._suffix.knows(trial) for trial in block) and self._suffix.together(block)

    @property
    def rows(self) -> int:
        """Rows of a batch where batches of one size are computed, else 0."""
        return self._suffix.rows if isinstance(self._suffix, Lockstep) and self.chosen != self._plain.name else 0

    def size(self, batch: int) -> None:
        """Compute ``batch`` rows at a time, where batches of one size are computed."""
        if isinstance(self._suffix, Lockstep):
            self._suffix.size(batch)

    def halve(self) -> bool:
        """Compute half as many rows at a time; say whether there were two."""
        return self.rows > 0 and isinstance(self._suffix, Lockstep) and self._suffix.halve()

    def settle(self, example: int) -> dict[str, str]:
        """Choose by input ``example``, unless that is done; return what was chosen and why not ``suffix``."""
        self._engine(example)
        return {"computed": str(self.chosen)} | ({} if self.reason is None else {"computed_because": self.reason})

    def _engine(self, example: int) -> Engine:
        if self.chosen is None:
            try:
                self._suffix.prepare(example)
                self.reason = None if self._resident else self._too_small(example)
            except InvalidConfig as error:
                self.reason = str(error)
            self.chosen = self._suffix.name if self.reason is None else self._plain.name
        return self._plain if self.chosen == self._plain.name else self._suffix

    def _too_small(self, example: int) -> str | None:
        with FlopCounterMode(display=False) as counter:
            self._model(self._images([example]))
        work = counter.get_total_flops() // 2 / 1e6
        if work >= self._least:
            return None
        return (
            f"a pass takes {work:.1f} million multiply-adds, and below {self._least} whole passes in batches are faster"
        )
