"""Planning a campaign: which trials there are, and which of them share a forward pass.

The plan is a function of the seed and the population alone. Two models with the same sites therefore meet the same
faults on the same images (common random numbers), and any executor runs the same blocks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from holdfast.errors import InvalidConfig, UnknownName
from holdfast.execution.condition import Fault, Flips, Population, faults
from holdfast.execution.injection import STORED
from holdfast.execution.statistics import trials_for
from holdfast.seeds import derive


@dataclass(frozen=True)
class Trial:
    """One realisation of the fault and the image it meets."""

    number: int
    flips: tuple[Flips, ...]
    input: int  # index into the dataset

    @property
    def together(self) -> bool:
        """Whether it can share a forward with others: a stored bit is seen by every row, a lie ends the whole pass."""
        return all(flip.site.kind not in (*STORED, "offload") for flip in self.flips)

    @property
    def address(self) -> tuple[str, int, int]:
        """Site, flat element and bit of the fault; element and bit are -1 unless it is in exactly one bit.

        A bit that is set or cleared counts whether or not the model happens to store the other value there.
        """
        if not self.flips:
            return "", -1, -1
        first = self.flips[0]
        mask = int(first.touched[0]) & (2**64 - 1)
        if len(self.flips) > 1 or len(first.index) > 1 or mask.bit_count() > 1:
            return first.site.address, -1, -1
        return first.site.address, int(first.index[0]), mask.bit_length() - 1


Block = tuple[Trial, ...]


def draw_trials(fault: Fault, population: Population, inputs: int, trials: int, seed: int) -> list[Trial]:
    """Draw ``trials`` independent trials, or take the first of a list that has ``listed_trials``."""
    listed: Callable[[Population, int, int], list[Trial]] | None = getattr(fault, "listed_trials", None)
    if listed is not None:
        return listed(population, inputs, trials)
    return [draw_trial(fault, population, inputs, number, seed) for number in range(trials)]


def draw_trial(fault: Fault, population: Population, inputs: int, number: int, seed: int) -> Trial:
    """Draw trial ``number``; it depends on the seed, its number and the population only."""
    if hasattr(fault, "listed_trials"):
        return draw_trials(fault, population, inputs, number + 1, seed)[number]
    own = derive(seed, "trial", number)
    image = int(derive(own, "input").numpy().integers(inputs))
    flips = [flip for flip in fault.flips(population, derive(own, "fault")) if len(flip.index)]
    return Trial(number, tuple(flips), image)


def plan_blocks(trials: Sequence[Trial], batch: int) -> list[Block]:
    """Cut trials into blocks of at most ``batch``: of one site where they share a forward, consecutive otherwise."""
    apart = [trial for trial in trials if not trial.together]
    shared = sorted((trial for trial in trials if trial.together), key=_sites)
    blocks = [block for _, group in groupby(shared, key=_sites) for block in _cut(list(group), batch)]
    return blocks + _cut(apart, batch)


def _cut(trials: Sequence[Trial], size: int) -> list[Block]:
    return [tuple(trials[start : start + size]) for start in range(0, len(trials), size)]


def _sites(trial: Trial) -> tuple[str, ...]:
    return tuple(flip.site.address for flip in trial.flips)


def trial_count(trials: int | None, margin: float | None, confidence: float, cases: int | None) -> int:
    """Return the number of trials asked for, directly or through the margin of a share near one half.

    Raises:
        InvalidConfig: neither or both are given, or fewer than one trial.
    """
    if (trials is None) == (margin is None):
        raise trial_sizes()
    if margin is not None:
        return trials_for(margin, confidence, population=cases)
    if trials is None or trials < 1:
        raise InvalidConfig(f"a campaign takes at least one trial, not {trials}")
    return trials if cases is None else min(trials, cases)


def trial_sizes() -> InvalidConfig:
    """Return the refusal of a campaign that has no size, or two."""
    return InvalidConfig("a campaign takes either trials= or margin=", hint="for example trials=1000 or margin=0.01")


def describe_fault(fault: Fault) -> dict[str, Any]:
    """Return the registered name of ``fault`` (else its class name), its parameters, and the digest of what it read."""
    try:
        name = faults.name_of(type(fault))
    except UnknownName:
        name = type(fault).__qualname__
    known: Any = fault
    names = [field.name for field in dataclasses.fields(known)] if dataclasses.is_dataclass(known) else []
    fields = {key: getattr(known, key) for key in names}
    if (digest := getattr(known, "digest", None)) is not None:
        fields["digest"] = digest
    plain = (str, int, float, bool, type(None))
    return {"name": name} | {key: item if isinstance(item, plain) else repr(item) for key, item in fields.items()}
