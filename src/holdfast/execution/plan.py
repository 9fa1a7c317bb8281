"""The plan of a campaign: every trial fixed by the seed, cut into blocks that any worker runs alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from holdfast.errors import InvalidConfig
from holdfast.execution.condition import Fault, Flips, Population
from holdfast.execution.injection import STORED
from holdfast.seeds import Seed, derive


@dataclass(frozen=True, slots=True)
class Trial:
    """One fault on one input."""

    number: int
    input: int  # index into the dataset
    flips: tuple[Flips, ...]

    def place(self) -> tuple[str, int, int]:
        """Return (site address, element, bit) of a single-bit fault, and (``(many)``, -1, -1) of any other."""
        if len(self.flips) != 1 or self.flips[0].index.numel() != 1:
            return "(many)", -1, -1
        mask = int(self.flips[0].mask[0]) & (2**64 - 1)
        bit = mask.bit_length() - 1 if mask.bit_count() == 1 else -1
        return self.flips[0].site.address, int(self.flips[0].index[0]), bit

    @property
    def lane(self) -> str:
        """Trials of one lane can share a forward pass, one fault a row; stored and offloaded faults cannot."""
        kinds = {item.site.kind for item in self.flips}
        if len(self.flips) == 1 and not kinds & {*STORED, "offload"}:
            return self.flips[0].site.address
        return ""


@dataclass(frozen=True, slots=True)
class Block:
    """Trials that run together; ``shared`` means in one forward pass."""

    trials: tuple[Trial, ...]
    shared: bool


def draw(fault: Fault, population: Population, inputs: int, trials: int, seed: int) -> list[Trial]:
    """Draw all trials; trial k depends on ``seed`` and k alone, so arms with equal populations pair up.

    Raises:
        InvalidConfig: no trials, an empty population or an empty dataset.
    """
    if trials < 1 or inputs < 1 or population.bits < 1:
        raise InvalidConfig(f"a campaign needs trials, inputs and bits, not {trials}, {inputs} and {population.bits}")
    return [
        Trial(number, _pick(derive(seed, "input", number), inputs), tuple(fault.flips(population, derive(seed, "trial", number))))
        for number in range(trials)
    ]


def _pick(seed: Seed, count: int) -> int:
    """Return a uniform index below ``count``; the bias of a 128-bit remainder is below 2**-60."""
    return seed.key % count


def blocks(trials: Sequence[Trial], batch: int) -> list[Block]:
    """Cut trials into blocks of at most ``batch``, lane by lane; the same for any number of workers."""
    lanes: dict[str, list[Trial]] = {}
    for trial in trials:
        lanes.setdefault(trial.lane, []).append(trial)
    return [
        Block(tuple(lane[start : start + batch]), shared=name != "")
        for name, lane in lanes.items()
        for start in range(0, len(lane), batch)
    ]
