"""Simulated chips: realisations of a fault that every model of an experiment meets alike.

Chip k of a seed depends on the seed, k and the sites only, so two models with the same sites fail at the same bits,
and every kind of measurement (error, perplexity, sensitivity) means the same chip by the same number.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from holdfast.errors import InvalidConfig
from holdfast.execution.condition import Fault, Flips, Population, by_pass
from holdfast.execution.executors import Executor
from holdfast.execution.executors.sharing import require_own_memory
from holdfast.execution.injection import STORED, applied, inject, population_of
from holdfast.execution.knobs import knobs_of
from holdfast.execution.ledger import Ledger
from holdfast.execution.plan import describe_fault
from holdfast.execution.platform import describe_platform
from holdfast.execution.run import device_of
from holdfast.models import manifest_of, stored
from holdfast.numerics import bits
from holdfast.seeds import Seed, derive

Entry = dict[str, Any]  # what one chip measured, as JSON


def draw_chip(fault: Fault, population: Population, seed: int, number: int) -> list[Flips]:
    """Return the flips of chip ``number`` of ``seed``, those that :func:`inject` draws under its seed.

    A law with ``flips_where_stored`` draws them on the device that holds the codes; they are the same.
    """
    draw: Callable[[Population, Seed], Sequence[Flips]] = getattr(fault, "flips_where_stored", fault.flips)
    drawn = draw(population, derive(derive(seed, "chip", number), "inject"))
    return [item for item in drawn if len(item.index)]


def changed_bits(model: nn.Module, flips: Sequence[Flips]) -> int:
    """Return how many bits ``flips`` change in ``model``; of what flows, how many may change in each sample."""
    total = 0
    for item in flips:
        mask = item.touched
        if item.site.kind in STORED:
            mask = item.against(stored(model, item.site).at(item.index))
        total += int(bits.popcount(mask).sum())
    return total


def is_random(fault: Fault) -> bool:
    """Say whether chips of ``fault`` differ; a law whose flips no seed changes says so by ``deterministic``."""
    return not getattr(fault, "deterministic", False)


@dataclass(frozen=True, kw_only=True)
class Chips:
    """The chips 0, 1, 2, ... of ``seed`` for one model.

    Attributes:
        at: selection of sites that may fail.
        example: one input sample, for sites that flow.
    """

    model: nn.Module
    fault: Fault
    at: str
    seed: int
    example: Tensor | None = None

    def plan(self, kind: str, data: str, **options: Any) -> dict[str, Any]:
        """Return everything that determines the entry of a chip; ``data`` is a digest."""
        knobs = knobs_of(device_of(self.model))
        return self.question(data) | {
            "type": f"holdfast.{kind}/v1",
            "model": manifest_of(self.model).digest,
            "platform": describe_platform().digest,
            **({"knobs": knobs} if knobs else {}),
            **options,
        }

    def question(self, data: str) -> dict[str, Any]:
        """Return what two models must have in common to be compared chip by chip."""
        return {"fault": describe_fault(self.fault), "at": self.at, "seed": self.seed, "data": data}

    @contextmanager
    def present(self, number: int, population: Population) -> Iterator[int | None]:
        """Run the block with chip ``number`` in the model; gives the bits it changes, None for a fault of each read."""
        if by_pass(self.fault):
            own = derive(self.seed, "chip", number)
            with inject(self.model, self.fault, at=self.at, seed=own, example=self.example):
                yield None
            return
        flips = draw_chip(self.fault, population, self.seed, number)
        changed = changed_bits(self.model, flips)
        with applied(self.model, flips):
            yield changed

    def population(self) -> Population:
        """Return the bits that may fail."""
        return population_of(self.model, self.at, self.example)


@dataclass(frozen=True, kw_only=True)
class ChipRun:
    """One pass over chips, kept in a ledger.

    Attributes:
        chips: which.
        measure: what to find out while a chip is present.
        plan: everything that determines it.
        clean: what ``measure`` gives without a fault; stands in where a chip has no error at all.
        store: file of the ledger, and ``name`` of this run in it.
    """

    chips: Chips
    measure: Callable[[], Entry]
    plan: dict[str, Any]
    clean: Entry
    store: Path | str | None = None
    name: str = "chips"

    def entries(self, executor: Executor, stop: Stop) -> Generator[Entry, None, None]:
        """Yield the entry of chip 0, 1, ..., the kept one or a new one, up to ``stop.most`` of them.

        The number of changed bits is added as ``flips``. Chips run ahead in waves, and only as far as may be needed.
        """
        population = self.chips.population()
        workers = getattr(executor, "workers", 1)
        if workers > 1:
            require_own_memory(self.chips.model)
        with Ledger(self.store, self.name, self.plan) as ledger:
            kept, done = ledger.entries(), 0
            while done < stop.most:
                wave = stop.chips if done < stop.chips else min(done + workers, stop.most)
                missing = [number for number in range(done, wave) if number not in kept]
                # in order as far as they are whole, so that progress shows and an interrupt loses nothing
                for number, entry in executor.map(lambda place: self._measured(place, population), missing):
                    ledger.append(number, entry)
                    kept[number] = entry
                    while done in kept and done < wave:
                        yield kept[done]
                        done += 1
                while done < wave:
                    yield kept[done]
                    done += 1

    def _measured(self, number: int, population: Population) -> Entry:
        with self.chips.present(number, population) as changed:
            return (self.clean if changed == 0 else self.measure()) | {"flips": changed}


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """When to stop looking at more chips: at a fixed number, or as soon as an interval is narrow enough.

    Attributes:
        chips: exactly so many; with ``half_width``, at least so many.
        half_width: stop once half the confidence sequence is at most this.
        max_chips: stop there in any case.
    """

    chips: int
    half_width: float | None = None
    max_chips: int = 1000

    def __post_init__(self) -> None:
        if self.chips < 1:
            raise InvalidConfig(f"a campaign over chips needs at least one chip, not {self.chips}")
        if self.half_width is not None and not 0 < self.half_width < 1:
            raise InvalidConfig(
                f"a half-width of an error lies between 0 and 1, not {self.half_width}", hint="0.01 is one point"
            )
        if self.half_width is not None and self.max_chips < self.chips:
            raise InvalidConfig(
                f"chips={self.chips}, the fewest, is more than max_chips={self.max_chips}, the most",
                hint="lower chips or raise max_chips",
            )

    @classmethod
    def of(cls, fault: Fault, chips: int, half_width: float | None = None, max_chips: int = 1000) -> Stop:
        """Return when to stop for a law: all chips of one without randomness are the same, so one is all of them.

        Raises:
            InvalidConfig: sizes out of range or in contradiction.
        """
        asked = cls(chips=chips, half_width=half_width, max_chips=max_chips)
        return asked if is_random(fault) else cls(chips=1)

    @property
    def most(self) -> int:
        """The largest number of chips this can take."""
        return self.chips if self.half_width is None else self.max_chips

    def reached(self, done: int, half_width: float) -> bool:
        """Say whether ``done`` chips and an interval of ``half_width`` on each side are enough."""
        if done >= self.most:
            return True
        return self.half_width is not None and done >= self.chips and half_width <= self.half_width
