"""What an experiment is: one setting, many ways to train (arms), and what a paper printed for each of them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from holdfast._registry import coerce, unknown
from holdfast.errors import InvalidConfig, UnknownName
from holdfast.numerics.formats import formats
from holdfast.training.experiments.decoding import INTERNAL, checked
from holdfast.training.recipes import Recipe, Schedule, recipes

_NAME = re.compile(r"[a-z0-9]+([-.][a-z0-9]+)*")  # it also names a folder


@dataclass(frozen=True, kw_only=True)
class Published:
    """Errors as a paper prints them, in percent."""

    clean: float  # of the weights without bit errors; nan where nothing is printed
    robust: tuple[float, ...]  # mean over chips at each of the experiment's rates; nan where nothing is printed
    source: str = ""  # paper and table, if not the experiment's


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to train and to store the weights."""

    name: str
    format: str  # of the stored weights, e.g. "rquant8"
    recipe: Mapping[str, Any]  # {"name": ..., option: ...}; the format is handed on to recipes that take one
    title: str = ""  # the paper's own name
    architecture: str = ""  # instead of the experiment's
    post_training: bool = False  # train float weights and quantise afterwards, instead of training with the format
    published: Published | None = None

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            hint = "small letters and digits, joined by - or ."
            raise InvalidConfig(f"an arm cannot be called {self.name!r}", hint=hint)
        formats.build(self.format)

    def build(self, schedule: Schedule) -> Recipe:
        """Return the training recipe.

        Raises:
            UnknownName: no recipe of that name.
            InvalidConfig: no name, or an option that the recipe does not take.
        """
        options = dict(self.recipe)
        name = options.pop("name", None)
        if not isinstance(name, str):
            raise InvalidConfig(f"the recipe of {self.name} has no name", hint='write recipe = { name = "standard" }')
        if "schedule" in options:
            raise InvalidConfig(f"the recipe of {self.name} sets a schedule", hint="[schedule] holds for all arms")
        factory = recipes.get(name)
        chosen = _checked(factory, options, f"recipe {name!r} of {self.name}")
        if not self.post_training and "format" in getattr(factory, "__dataclass_fields__", ()):
            chosen.setdefault("format", self.format)
        return factory(**chosen, schedule=schedule)


@dataclass(frozen=True, kw_only=True)
class Data:
    """A data set by name, and how to read it."""

    name: str  # cifar10, cifar100, mnist, digits, ...
    options: Mapping[str, Any] = field(default_factory=dict)  # of its reader, such as mean and std


@dataclass(frozen=True, kw_only=True)
class Scale:
    """A smaller version of an experiment; what is None stays."""

    architecture: str | None = None
    epochs: int | None = None
    chips: int | None = None
    rates: tuple[float, ...] | None = None  # some of the experiment's
    train_images: int | None = None
    test_images: int | None = None


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Arms that are trained alike and meet the same chips."""

    name: str
    architecture: str  # specification, see build_architecture
    data: Data
    arms: tuple[Arm, ...]
    rates: tuple[float, ...]  # p, per bit, 0..1, ascending
    schedule: Schedule = field(default_factory=Schedule)
    title: str = ""
    source: str = ""  # of the published errors: paper and table
    augment: tuple[str, ...] = ()  # specifications, in order
    chips: int = 50
    train_images: int | None = None  # the first so many; None takes all
    test_images: int | None = None  # the first so many, for errors on chips; clean errors are of the whole test set
    scales: Mapping[str, Scale] = field(default_factory=dict)
    scale: str = field(default="full", metadata=INTERNAL)

    def __post_init__(self) -> None:
        self._check_numbers()
        self._check_arms()

    def _check_numbers(self) -> None:
        if (
            not self.rates
            or list(self.rates) != sorted(set(self.rates))
            or not 0 <= self.rates[0] <= self.rates[-1] <= 1
        ):
            raise InvalidConfig(f"{self.name} needs ascending bit error rates in 0..1", hint="0.01 is one percent")
        counts = {"chips": self.chips, "train_images": self.train_images, "test_images": self.test_images}
        for key, count in counts.items():
            if count is not None and count < 1:
                raise InvalidConfig(f"{key} of {self.name} is {count}", hint="at least 1")

    def _check_arms(self) -> None:
        names = [arm.name for arm in self.arms]
        if not names or len(set(names)) != len(names):
            twice = sorted({name for name in names if names.count(name) > 1})
            raise InvalidConfig(f"{self.name} has {'two arms called ' + twice[0] if twice else 'no arms'}")
        for arm in self.arms:
            arm.build(self.schedule)
            _check_published(arm, self.rates)

    def only(self, patterns: Sequence[str]) -> Experiment:
        """Return the experiment with the arms that match any of ``patterns`` (``*`` matches anything).

        Raises:
            UnknownName: a pattern matches no arm.
        """
        names = [arm.name for arm in self.arms]
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise unknown("arm", pattern, names)
        return replace(self, arms=tuple(a for a in self.arms if any(fnmatchcase(a.name, p) for p in patterns)))

    def at_scale(self, name: str) -> Experiment:
        """Return the experiment at one of its smaller scales, or as it is for ``full``.

        Raises:
            UnknownName: no such scale.
            InvalidConfig: the scale has a rate that the experiment has not.
        """
        if name == "full":
            return self
        if name not in self.scales:
            raise UnknownName(f"{self.name} has no scale {name!r}", hint=f"it has full, {', '.join(self.scales)}")
        scale = self.scales[name]
        result = self if scale.rates is None else self.at_rates(scale.rates)
        values = {key: getattr(scale, key) for key in ("architecture", "chips", "train_images", "test_images")}
        chosen = {key: value for key, value in values.items() if value is not None}
        if scale.architecture is not None:
            chosen["arms"] = tuple(replace(arm, architecture="") for arm in result.arms)
        result = replace(result, scale=name, **chosen)
        return result if scale.epochs is None else result.with_epochs(scale.epochs)

    def at_rates(self, rates: tuple[float, ...]) -> Experiment:
        """Return the experiment at some of its rates, with what is published for them."""
        if lacking := [rate for rate in rates if rate not in self.rates]:
            raise InvalidConfig(f"{self.name} has no rate {lacking[0]:g}", hint=f"its rates: {self.rates}")
        places = [self.rates.index(rate) for rate in rates]
        return replace(self, rates=rates, arms=tuple(_at_places(arm, places) for arm in self.arms))

    def with_epochs(self, epochs: int) -> Experiment:
        """Return the experiment with another length of training; the learning rate falls at the same shares of it."""
        return replace(self, schedule=replace(self.schedule, epochs=epochs))


def _checked(factory: Any, options: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Return ``options`` as ``factory`` wants them; the fields of a dataclass say more than a signature."""
    return checked(factory, options, what) if is_dataclass(factory) else coerce(factory, options, what=what)


def _check_published(arm: Arm, rates: tuple[float, ...]) -> None:
    printed = arm.published
    if printed is None:
        return
    if len(printed.robust) != len(rates):
        raise InvalidConfig(f"{arm.name} has {len(printed.robust)} published errors for {len(rates)} rates")
    if not all(math.isnan(value) or 0 <= value <= 100 for value in (printed.clean, *printed.robust)):
        raise InvalidConfig(
            f"{arm.name} has a published error outside 0..100", hint="percent; nan where none is printed"
        )


def _at_places(arm: Arm, places: Sequence[int]) -> Arm:
    if arm.published is None:
        return arm
    return replace(arm, published=replace(arm.published, robust=tuple(arm.published.robust[p] for p in places)))
