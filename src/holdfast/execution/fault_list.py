"""Fault lists: the trials of a campaign written out, each with its input, its changes and the values they met.

A list is what one tool hands to another, or one year to the next: it replays without the law, the seed or the version
that drew it. Trial i of a list is trial i of the campaign it came from, and gives the same row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from holdfast.errors import InvalidConfig, NoSuchSite, UnreadableArtifact
from holdfast.evidence import canonical
from holdfast.evidence.digest import digest_bytes
from holdfast.execution.condition import Flips, InTurn, Population, faults
from holdfast.execution.plan import Trial
from holdfast.execution.rewrites import Becomes, rule_from_json, rule_to_json, signed
from holdfast.models.site import KINDS, Site
from holdfast.seeds import Seed

_SITE = ("kind", "name", "format", "bits", "shape")
_COLUMNS = ("flip", "rise", "fall")
_CHANGE = {"site", "element", *_COLUMNS, "rule", "before", "after"}


@dataclass(frozen=True)
class ListedTrial:
    """One trial and what was found when it was listed.

    Attributes:
        trial: number, input and changes.
        values: for each of its changes the codes before and after, int64 (n,) each; None where nobody looked.
    """

    trial: Trial
    values: tuple[tuple[Tensor, Tensor] | None, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the trial as one line of a list; masks and codes are hexadecimal text."""
        changes = [_change_to_json(*pair) for pair in zip(self.trial.flips, self.values, strict=True)]
        return {"trial": self.trial.number, "input": self.trial.input, "changes": changes}

    @classmethod
    def from_json(cls, value: object) -> ListedTrial:
        """Read a line back.

        Raises:
            UnreadableArtifact: anything is missing, extra, of another type or out of range.
        """
        if not isinstance(value, dict) or set(value) != {"trial", "input", "changes"}:
            raise UnreadableArtifact("a trial has exactly trial, input and changes")
        number, image, changes = value["trial"], value["input"], value["changes"]
        if type(number) is not int or type(image) is not int or min(number, image) < 0 or not isinstance(changes, list):
            raise UnreadableArtifact("a trial and its input are numbers from 0, its changes a list")
        try:
            found = [_change_from_json(change) for change in changes]
        except (AttributeError, KeyError, TypeError, ValueError, InvalidConfig) as error:
            raise UnreadableArtifact(f"a change of trial {number} is malformed: {error}") from error
        return cls(Trial(number, tuple(flips for flips, _ in found), image), tuple(values for _, values in found))


@dataclass(frozen=True)
class FaultList:
    """The trials of a campaign, in order.

    Attributes:
        trials: numbered 0, 1, ...
        about: where they come from: fault, seed, selection, model, data, and the number of ``inputs`` drawn from.
    """

    trials: tuple[ListedTrial, ...]
    about: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if [item.trial.number for item in self.trials] != list(range(len(self.trials))):
            raise InvalidConfig("the trials of a list are numbered 0, 1, 2, ...")

    def __len__(self) -> int:
        return len(self.trials)

    def __repr__(self) -> str:
        return f"FaultList({len(self)} trials, {self.digest})"

    @cached_property
    def digest(self) -> str:
        """BLAKE3 of the canonical JSON of the trials."""
        return digest_bytes(canonical.dumps([item.to_json() for item in self.trials]))


@faults.register("fault-list")
@dataclass(frozen=True, kw_only=True)
class ListedFaults:
    """The trials of a list instead of a law: ``fault-list:path=faults.jsonl``, or a list in memory.

    A campaign runs the first of its ``trials``, each with the input of the list. Elsewhere a seed draws one of them,
    each equally likely.

    Raises:
        InvalidConfig: neither a path nor a list is given, or both, or the list is empty.
        UnreadableArtifact: the file is missing or malformed.
        MissingExtra: a Parquet file without pyarrow.
    """

    path: str | None = None  # .jsonl or .parquet
    listed: FaultList | None = None

    def __post_init__(self) -> None:
        if (self.path is None) == (self.listed is None):
            raise InvalidConfig("listed faults come from a file or from a list", hint="fault-list:path=faults.jsonl")
        if not len(self.fault_list):
            raise InvalidConfig("a list of faults has one trial or more")

    @cached_property
    def fault_list(self) -> FaultList:
        """The list."""
        from holdfast.execution.fault_files import read_fault_list  # which reads into the types of this module

        return self.listed if self.listed is not None else read_fault_list(self.path or "")

    @property
    def digest(self) -> str:
        """Digest of the trials, whatever file they stand in."""
        return self.fault_list.digest

    def flips(self, population: Population, seed: Seed) -> list[Flips]:
        """Return the changes of the trial that ``seed`` draws.

        Raises:
            NoSuchSite: a site is not selected, or not of the shape and format it had.
        """
        item = self.fault_list.trials[seed.key % len(self.fault_list)]
        return _present(item.trial, population)

    def listed_trials(self, population: Population, inputs: int, trials: int | None = None) -> list[Trial]:
        """Return the first ``trials`` (None: all) for a campaign over ``inputs`` samples.

        Raises:
            NoSuchSite: as for ``flips``.
            InvalidConfig: the list is shorter, or was made for another number of inputs.
        """
        listed = self.fault_list
        trials = len(listed) if trials is None else trials
        if trials > len(listed):
            raise InvalidConfig(
                f"the list holds {len(listed)} trials, not {trials}", hint=f"ask for trials={len(listed)} at most"
            )
        if listed.about.get("inputs", inputs) != inputs:
            raise InvalidConfig(f"the list was made for {listed.about['inputs']} inputs, and there are {inputs}")
        first = [item.trial for item in listed.trials[:trials]]
        if beyond := [trial.number for trial in first if trial.input >= inputs]:
            raise InvalidConfig(f"trial {beyond[0]} has an input beyond the {inputs} that there are")
        return [Trial(trial.number, tuple(_present(trial, population)), trial.input) for trial in first]


def _present(trial: Trial, population: Population) -> list[Flips]:
    known = {site.address: site for site in population.sites}
    for site in (item.site for item in trial.flips):
        found = known.get(site.address)
        if found is None:
            raise NoSuchSite(f"the listed faults of {site.address} fall outside the selection", hint=f"at={site.kind}")
        if found != site:
            raise NoSuchSite(
                f"{site.address} is {found.format}{list(found.shape)} here and was {site.format}{list(site.shape)}",
                hint="replay faults on the model they were listed for",
            )
    return list(trial.flips)


def _hex(values: Tensor) -> list[str]:
    return [hex(value & (2**64 - 1)) for value in values.tolist()]


def _change_to_json(item: Flips, values: tuple[Tensor, Tensor] | None) -> dict[str, Any]:
    site = {name: getattr(item.site, name) for name in _SITE} | {"shape": list(item.site.shape)}
    found: dict[str, Any] = {"site": site, "element": item.index.tolist()}
    for name, column in zip(_COLUMNS, (item.mask, item.rise, item.fall), strict=True):
        if column is not None and bool(column.any()):
            found[name] = _hex(column)
    if item.rewrite is not None:
        found["rule"] = rule_to_json(item.rewrite)
    if values is not None:
        found["before"], found["after"] = (_hex(side) for side in values)
    return found


def _change_from_json(value: Mapping[str, Any]) -> tuple[Flips, tuple[Tensor, Tensor] | None]:
    if not set(value) <= _CHANGE:
        raise ValueError(f"it has {', '.join(sorted(set(value) - _CHANGE))}")
    site = _site_from_json(value["site"])
    if any(type(element) is not int for element in value["element"]):
        raise ValueError("elements are numbers")
    index = torch.tensor(value["element"], dtype=torch.int64)
    inside = bool(((index >= 0) & (index < site.numel)).all())
    if not len(index) or not inside or len(index.unique()) != len(index):
        raise ValueError(f"elements lie within {site.address}, each once")

    def column(name: str) -> Tensor | None:
        if name not in value:
            return None
        numbers = torch.tensor([signed(text) for text in value[name]], dtype=torch.int64)
        if len(numbers) != len(index) or (site.bits < 64 and bool((numbers >> site.bits).any())):
            raise ValueError(f"{name} has one number of {site.bits} bits per element")
        return numbers

    flip, rise, fall = (column(name) for name in _COLUMNS)
    _require_apart([one for one in (flip, rise, fall) if one is not None])
    before, after = column("before"), column("after")
    if (before is None) != (after is None):
        raise ValueError("before and after come together")
    mask = torch.zeros_like(index) if flip is None else flip
    rules = [rule_from_json(part) for part in value.get("rule", [])]
    if rules and sum(count for _, count in rules) != len(index):
        raise ValueError("a rule has one row per element")
    if any(isinstance(rule, Becomes) and site.bits < 64 and (rule.codes >> site.bits).any() for rule, _ in rules):
        raise ValueError(f"a code has at most {site.bits} bits")
    rewrite = None if not rules else rules[0][0] if len(rules) == 1 else InTurn(tuple(rules))
    if rewrite is None and not bool((mask | (0 if rise is None else rise) | (0 if fall is None else fall)).all()):
        raise ValueError("an element is listed only if a bit of it may change")
    return Flips(site, index, mask, rise, fall, rewrite), None if before is None or after is None else (before, after)


def _require_apart(columns: Sequence[Tensor]) -> None:
    for number, one in enumerate(columns):
        if any(bool((one & other).any()) for other in columns[:number]):
            raise ValueError("no bit is in two of flip, rise and fall")


def _site_from_json(value: Mapping[str, Any]) -> Site:
    if set(value) != set(_SITE) or value["kind"] not in KINDS:
        raise ValueError(f"a site has exactly {', '.join(_SITE)}, and a known kind")
    if any(type(value[name]) is not str for name in ("name", "format")) or type(value["bits"]) is not int:
        raise ValueError("the name and format of a site are text, its bits a number")
    if not 1 <= value["bits"] <= 64 or not all(type(side) is int and side >= 0 for side in value["shape"]):
        raise ValueError("a site has 1 to 64 bits and a shape of whole numbers")
    return Site(value["kind"], value["name"], tuple(value["shape"]), value["format"], value["bits"])


def lines_of(listed: FaultList) -> Sequence[dict[str, Any]]:
    """Return the trials of a list as JSON, in order."""
    return [item.to_json() for item in listed.trials]
