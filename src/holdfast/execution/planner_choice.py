"""From what the caller asks for to a design and the draws behind it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from holdfast._registry import unknown
from holdfast.errors import InvalidConfig
from holdfast.execution.condition import Fault, Population
from holdfast.execution.injection import population_of
from holdfast.execution.plan import trial_count, trial_sizes
from holdfast.execution.planner import MEASURES
from holdfast.execution.planner_design import EVERYTHING, Design, Part, parts_of
from holdfast.execution.report_weights import reweighted
from holdfast.execution.sampling import masses
from holdfast.execution.sampling_draws import Draws, LawDraws, SingleBit, SiteDraws, StrataDraws
from holdfast.execution.sampling_macs import count_macs
from holdfast.execution.statistics import check_confidence
from holdfast.execution.strata import Stratum, stratify
from holdfast.execution.tasks import Exam

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "leveugle": {"sampling": "bit-uniform", "stratify": "none"},  # DATE 2009: n for p = 0.5, simple random sampling
    "pytorchfi": {"sampling": "layer-uniform", "stratify": "none"},  # a layer first, then a place in it
}
_MOST_STRATA = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What :func:`holdfast.campaign` was asked for; see there."""

    trials: int | None = None
    margin: float | None = None
    relative: bool = False
    confidence: float = 0.95
    of: str = "critical-or-due"
    sampling: str = "bit-uniform"
    target: str | None = None
    stratify: str = "auto"
    bits: Sequence[int] | str | None = None
    exhaustive: bool = False
    preset: str | None = None
    max_trials: int = 1_000_000
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Choice:
    """A design, its draws, and what the plan says beside it."""

    design: Design
    draws: Draws
    stated: Mapping[str, Any]


def choose(wish: Wish, model: nn.Module, exam: Exam, fault: Fault, at: str) -> Choice:
    """Settle the design of a campaign.

    Raises:
        NoSuchSite: nothing matches ``at``; UnknownName: a law, a stratification, an outcome or a preset.
        InvalidConfig: contradictions, or a wish that this fault cannot fulfil.
    """
    wish, fixed = _with_preset(wish)
    _check(wish, fault)
    population = population_of(model, at, exam.example)
    laws = {wish.sampling, wish.target or wish.sampling}
    macs = count_macs(model, exam.example, population.sites) if "mac-weighted" in laws else {}
    weights = masses(population.sites, wish.sampling, macs)
    case = _Case(wish, fixed, fault, population, weights, exam.size)
    design, draws = case.settle()
    stated = {
        "sampling": wish.sampling,
        "target": wish.target or wish.sampling,
        "stratify": case.way,
        "without_weight": [site.address for site, mass in zip(population.sites, weights, strict=True) if not mass],
        "population": [[site.address, site.numel, site.bits] for site in population.sites],
        "population_bits": population.bits,
        "sites": len(population.sites),
        "inputs": exam.size,
        "macs": dict(macs),
        "preset": wish.preset,
    }
    if wish.target not in (None, wish.sampling):
        design = Design.from_json(reweighted(stated, design, str(wish.target))["design"])
    return Choice(design, draws, stated)


def _with_preset(wish: Wish) -> tuple[Wish, bool]:
    """Return the wish with its preset filled in, and whether a margin means a fixed number of trials."""
    if wish.preset is None:
        return wish, False
    if wish.preset not in PRESETS:
        raise unknown("preset", wish.preset, PRESETS)
    own = PRESETS[wish.preset]
    for key, default in (("sampling", "bit-uniform"), ("stratify", "auto")):
        if getattr(wish, key) not in (default, own[key]):
            raise InvalidConfig(f"preset {wish.preset!r} means {key}={own[key]!r}", hint=f"leave {key}= out")
    if wish.relative or wish.exhaustive:
        raise InvalidConfig(f"preset {wish.preset!r} knows absolute margins only", hint="leave preset= out")
    return replace(wish, **own), True


def _check(wish: Wish, fault: Fault) -> None:
    check_confidence(wish.confidence)
    if wish.of not in MEASURES:
        raise unknown("outcome", wish.of, MEASURES)
    if wish.exhaustive and (wish.trials is not None or wish.margin is not None):
        raise InvalidConfig("an exhaustive campaign has no trials= or margin=", hint="it tries every case once")
    if wish.margin is not None and not 0 < wish.margin < 1:
        raise InvalidConfig(f"a margin lies between 0 and 1, not {wish.margin}", hint="write 0.01 for one per cent")
    if wish.relative and wish.margin is None:
        raise InvalidConfig("relative=True says how margin= is meant", hint="for example margin=0.1, relative=True")
    for name, count in (("trials", wish.trials), ("max_trials", wish.max_trials)):
        if count is not None and (not isinstance(count, int) or isinstance(count, bool)):
            raise InvalidConfig(f"{name} is a whole number, not {count!r}", hint=f"for example {name}=1000")
    if wish.max_trials < 1:
        raise InvalidConfig(f"a campaign takes at least one trial, not {wish.max_trials}")
    needed = [name for name, given in (("exhaustive", wish.exhaustive), ("bits", wish.bits is not None)) if given]
    needed += ["stratify"] if wish.stratify not in ("auto", "none") else []
    if needed and not isinstance(fault, SingleBit):
        raise InvalidConfig(
            f"{needed[0]}= needs a fault of one bit, and {type(fault).__name__} draws its bits together",
            hint="use bit-flip, or leave it out: plain sampling works for every fault",
        )
    if needed and wish.target not in (None, wish.sampling):
        raise InvalidConfig(f"{needed[0]}= draws by strata, not by a second law", hint="name one law with sampling=")


@dataclass(frozen=True)
class _Case:
    """One wish for one fault and one population."""

    wish: Wish
    fixed: bool  # a margin means a number of trials, not a stop
    fault: Fault
    population: Population
    weights: Sequence[float]
    inputs: int

    @property
    def sequential(self) -> bool:
        return self.wish.margin is not None and not self.fixed

    @property
    def way(self) -> str:
        """How the population is stratified, in words that say so when it cannot be."""
        if self.wish.exhaustive:
            return "none: every case is tried"
        if not isinstance(self.fault, SingleBit):
            return f"none: {type(self.fault).__name__} draws its bits together, and no stratum holds them"
        if self.wish.target not in (None, self.wish.sampling):
            return "none: trials are weighted to the target law"
        if self.wish.stratify == "auto":
            return "layer-class" if self.sequential else "none"
        return self.wish.stratify

    def settle(self) -> tuple[Design, Draws]:
        single = isinstance(self.fault, SingleBit) and self.wish.target in (None, self.wish.sampling)
        wanted = self.wish.bits is not None or self.wish.stratify not in ("auto", "none")
        if self.wish.exhaustive:
            return self._census()
        if single and (self.wish.margin is not None or wanted):
            return self._strata()
        return self._plain()

    def _census(self) -> tuple[Design, Draws]:
        sites = self.population.sites
        strata = stratify(sites, self.weights, "layer", most=len(sites), bits=self.wish.bits)
        parts = parts_of(strata, self.inputs)
        cases = sum(part.items or 0 for part in parts)
        return self._design(parts, first=4096, budget=cases, exhaustive=True), self._draws(strata, in_order=True)

    def _strata(self) -> tuple[Design, Draws]:
        sites, wish = self.population.sites, self.wish
        strata = stratify(sites, self.weights, self.way, most=self._most_strata(), bits=wish.bits)
        parts = parts_of(strata, self.inputs)
        endless = any(part.items is None for part in parts)
        budget = self._budget(None if endless else sum(part.items or 0 for part in parts))
        if budget < 2 * len(parts):
            raise InvalidConfig(f"{budget} trials are too few for {len(parts)} strata", hint="at least two for each")
        first = max(3 * len(parts), 32) if self.sequential or len(parts) > 1 else budget
        return self._design(parts, first=min(first, budget), budget=budget), self._draws(strata)

    def _plain(self) -> tuple[Design, Draws]:
        budget = self._budget(None)
        design = self._design((EVERYTHING,), first=min(32, budget) if self.sequential else budget, budget=budget)
        if self.wish.sampling == "bit-uniform":
            return design, LawDraws(self.fault, self.population, self.inputs, self.wish.seed, most=budget)
        return design, SiteDraws(self.fault, self.population, self.weights, self.inputs, self.wish.seed)

    def _design(self, parts: tuple[Part, ...], *, first: int, budget: int, exhaustive: bool = False) -> Design:
        wish = self.wish
        return Design(
            parts,
            first,
            budget,
            of=wish.of,
            margin=wish.margin if self.sequential else None,
            relative=wish.relative,
            confidence=wish.confidence,
            exhaustive=exhaustive,
        )

    def _draws(self, strata: Sequence[Stratum], *, in_order: bool = False) -> Draws:
        if not isinstance(self.fault, SingleBit):
            raise InvalidConfig(f"{type(self.fault).__name__} cannot be drawn from strata", hint="use bit-flip")
        return StrataDraws(self.fault, strata, self.inputs, self.wish.seed, in_order=in_order)

    def _most_strata(self) -> int:
        """As many strata as the trials can fill: no campaign that stops early pays for strata it cannot learn about."""
        wish = self.wish
        filled = max(1, min(_MOST_STRATA, (wish.trials or wish.max_trials) // 8))
        if wish.trials is not None or wish.margin is None:
            return filled
        if wish.relative:
            return min(filled, _MOST_STRATA // 2)
        return min(filled, max(8, int(math.log(2 / (1 - wish.confidence)) / (8 * wish.margin))))

    def _budget(self, cases: int | None) -> int:
        """Return the number of trials, or the most of a campaign that stops by itself."""
        wish = self.wish
        if not self.sequential:
            return trial_count(wish.trials, wish.margin, wish.confidence, cases)
        if wish.trials is not None:
            raise trial_sizes()
        return wish.max_trials if cases is None else min(wish.max_trials, cases)
