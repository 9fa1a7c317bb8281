"""Rules that place nodes: the optimum under demands, and published ones by what they say, for any graph.

None of them names a layer: each follows from sizes, order, costs or weights.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

from holdfast._files import read_bytes
from holdfast._registry import Registry
from holdfast.errors import InvalidConfig
from holdfast.shielding.integer import integer_layers
from holdfast.shielding.planner.costs import Placement, cost, transfer
from holdfast.shielding.planner.inference import spread
from holdfast.shielding.planner.laws import Machine
from holdfast.shielding.planner.solve import Option, fastest, least_exposed, over_budget
from holdfast.shielding.planner.workload import Node, Workload

_NOTHING = ("", "none")


class Rule(Protocol):
    """A way to place nodes; a frozen dataclass whose fields are its parameters."""

    def place(self, work: Workload, machine: Machine, budget: int | None) -> dict[str, Placement]:
        """Return a placement for every node.

        Args:
            budget: bytes that the trusted world may hold: weights, check vectors, masks and activations.
        """
        ...


rules: Registry[Rule] = Registry("shield rule", "holdfast.shield_rules")


def specification(rule: Rule) -> str:
    """Return the text from which ``rules.build`` makes ``rule`` again; always the same for the same rule."""
    options = [(item.name, getattr(rule, item.name)) for item in dataclasses.fields(rule)]  # type: ignore[arg-type]
    given = [f"{name}={_text(value)}" for name, value in options if value is not None]
    return ":".join(filter(None, (rules.name_of(type(rule)), ",".join(given))))


def _text(value: object) -> str:
    if isinstance(value, frozenset):
        return "|".join(sorted(value)) or "none"
    return str(value).lower() if isinstance(value, bool) else str(value)


def regions(work: Workload, words: Mapping[str, Placement]) -> dict[str, list[int]]:
    """Return which values change between the trusted world and an exposed region: elements, by the node they reach.

    Each value crosses once, to the first node that needs it there; the output returns to the trusted world.
    """
    sizes = {work.input: work.input_elements} | {node.name: node.given for node in work.nodes}
    outside = {work.input: False} | {name: word == "exposed" for name, word in words.items()}
    crossed: set[str] = set()
    result: dict[str, list[int]] = {}
    for node in work.nodes:
        for source in node.sources:
            if outside[source] != outside[node.name] and source not in crossed:
                crossed.add(source)
                result.setdefault(node.name, []).append(sizes[source])
    if work.nodes and outside[work.nodes[-1].name] and work.nodes[-1].name not in crossed:
        result.setdefault(work.nodes[-1].name, []).append(work.nodes[-1].given)
    return result


def stages(work: Workload) -> list[list[Node]]:
    """Return the graph as a chain: each stage is one node that multiplies, with the small work after it.

    Small work before the first such node belongs to its stage.
    """
    found: list[list[Node]] = [[]]
    for node in work.nodes:
        if node.macs and any(part.macs for part in found[-1]):
            found.append([])
        found[-1].append(node)
    return found


def _trusted(work: Workload) -> dict[str, Placement]:
    return {node.name: "trusted" for node in work.nodes}


def _linear_at(work: Workload, word: Placement) -> dict[str, Placement]:
    return _trusted(work) | {node.name: word for node in work.linear()}


def _patterns(text: str) -> tuple[str, ...]:
    return () if text in _NOTHING else tuple(text.split("|"))


@rules.register("optimal")
@dataclass(frozen=True, slots=True, kw_only=True)
class Optimal:
    """The fastest placement that meets the demands and fits the budget; exact for the measured costs.

    Every linear node is trusted, verified or blinded; small work stays trusted, so no answer is ever believed. A value
    is hidden where the worker cannot work it out either: what a demand names spreads to every linear node that is
    connected with it. Only nodes whose weights are hidden part what must be hidden from the rest.
    """

    hide_weights: str = "none"  # globs joined by |: the worker must not see these nodes' weights
    hide_values: str = "*"  # globs joined by |: nor work out these nodes' inputs and outputs

    def place(self, work: Workload, machine: Machine, budget: int | None) -> dict[str, Placement]:
        """Return the optimum."""
        weights, named = (work.matching(_patterns(text)) for text in (self.hide_weights, self.hide_values))
        values = spread(work, named, weights)
        ways = [self._options(node, machine, node.name in weights, node.name in values) for node in work.nodes]
        words = fastest(ways, budget, held=work.peak())
        return {node.name: word for node, word in zip(work.nodes, words, strict=True)}  # type: ignore[misc]

    def _options(self, node: Node, machine: Machine, hide_weights: bool, hide_values: bool) -> list[Option]:
        words: list[Placement] = ["trusted"]
        if node.linear and not hide_weights:
            words += ["blinded"] if hide_values else ["verified", "blinded"]
        costs = {word: cost(node, word, machine) for word in words}
        return [Option(word, item.seconds, item.memory) for word, item in costs.items()]


@rules.register("whole")
@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """The whole model in the trusted world (MLCapsule; Hanzlik et al., 2018)."""

    def place(self, work: Workload, machine: Machine, budget: int | None) -> dict[str, Placement]:
        """Return trusted for every node."""
        return _trusted(work)


@rules.register("none")
@dataclass(frozen=True, slots=True, kw_only=True)
class Unshielded:
    """No shield: everything outside."""

    def place(self, work: Workload, machine: Machine, budget: int | None) -> dict[str, Placement]:
        """Return exposed for every node."""
        return {node.name: "exposed" for node in work.nodes}


@rules.register("last-k")
@dataclass(frozen=True, slots=True, kw_only=True)
class Last:
    """The last stages trusted, the others outside and believed (DarkneTZ; Mo et al., MobiSys 2020)."""

    k: int | None = None  # stages; None: as many as the budget holds

    def place(self, work: Workload, machine: Machine, budget: int | None) -> dict[str, Placement]:
        """Return trusted for the last stages."""
        return _ends(work, self.k, budget, last=True)


@rules.register("first-k")
@dataclass(frozen=True, slots=True, kw_only=True)
class First:
    """The first stages trusted, the others outside and believed (Serdab; Elgamal & Nahrstedt, 2020)."""

    k: int | None = None  # stages; None: as many as the budget holds

    def place(self, work: Workload, machine: Machine, budget: int | None) -> dict[str, Placement]:
        """Return trusted for the first stages."""
        return _ends(work, self.k, budget, last=False)


def _ends(work: Workload, k: int | None, budget: int | None, *, last: bool) -> dict[str, Placement]:
    chain = stages(work)
    ordered = chain[::-1] if last else chain
    count = _fitting(ordered, work.peak(), budget) if k is None else k
    if not 1 <= count <= len(chain):
        raise InvalidConfig(f"there are {len(chain)} stages, not {count}", hint="choose k within")
    inside = {node.name for part in ordered[:count] for node in part}
    return {node.name: "trusted" if node.name in inside else "exposed" for node in work.nodes}


def _fitting(ordered: Sequence[Sequence[Node]], values: int, budget: int | None) -> int:
    """Return how many stages' weights fit beside ``values`` bytes of activations, from the front of ``ordered``."""
    if budget is None:
        raise InvalidConfig(
            "this rule takes as many stages as fit a budget, and none is given", hint="give k or --budget"
        )
    held = values
    for count, part in enumerate(ordered):
        held += sum(node.weights for node in part)
        if held > budget:
            if count == 0:
                raise over_budget(held, budget)
            return count
    return len(ordered)


@rules.register("deadline")
@dataclass(frozen=True, slots=True, kw_only=True)
class Deadline:
    """Protect the stages whose faults would hurt most, within a deadline (AegisDNN; Xiang et al., RTSS 2021).

    Their dynamic program, made exact: least sum of the sensitivities of the stages left outside, in time.
    Sensitivities come from fault injection, as a JSON object of node name to number; a stage has its nodes' largest.
    """

    seconds: float  # deadline of one sample
    sensitivity: str  # file of {node: silent data corruption rate when struck}

    def place(self, work: Workload, machine: Machine, budget: int | None) -> dict[str, Placement]:
        """Return trusted for the protected stages."""
        return protect(work, machine, read_sensitivity(Path(self.sensitivity)), self.seconds)


def read_sensitivity(path: Path) -> dict[str, float]:
    """Read sensitivities by node.

    Raises:
        UnreadableArtifact: no such file.
        InvalidConfig: not an object of numbers of at least 0.
    """
    try:
        value = json.loads(read_bytes(path, "sensitivity file"))
    except ValueError as error:
        raise InvalidConfig(f"{path} is not JSON", hint='write {"node": 0.01, ...}') from error
    numbers = isinstance(value, dict) and all(
        isinstance(part, int | float) and not isinstance(part, bool) and part >= 0 for part in value.values()
    )
    if not numbers:
        raise InvalidConfig(f"{path} is no object of numbers of at least 0", hint='write {"node": 0.01, ...}')
    return {str(name): float(part) for name, part in value.items()}


def protect(
    work: Workload, machine: Machine, sensitivity: Mapping[str, float], deadline: float
) -> dict[str, Placement]:
    """Place stages by sensitivity within ``deadline`` seconds.

    Raises:
        InvalidConfig: a stage without a sensitivity, or no placement is in time.
    """
    chain = stages(work)
    risks = []
    for part in chain:
        known = [sensitivity[node.name] for node in part if node.name in sensitivity]
        if not known:
            raise InvalidConfig(f"no sensitivity is given for {part[0].name}", hint="inject faults into every stage")
        risks.append(max(known))
    times = [
        (sum(cost(n, "exposed", machine).seconds for n in part), sum(cost(n, "trusted", machine).seconds for n in part))
        for part in chain
    ]
    moves = [transfer(elements, machine)[0] for elements in cuts(work, chain)]
    inside = least_exposed(times, risks, moves, deadline)
    words: list[Placement] = ["trusted" if flag else "exposed" for flag in inside]
    return {node.name: word for part, word in zip(chain, words, strict=True) for node in part}


def cuts(work: Workload, chain: Sequence[Sequence[Node]]) -> list[int]:
    """Return the elements alive before each stage, and after the last."""
    place = {node.name: number for number, part in enumerate(chain) for node in part} | {work.input: -1}
    sizes = {work.input: work.input_elements} | {node.name: node.given for node in work.nodes}
    last: dict[str, int] = {work.nodes[-1].name: len(chain)}
    for node in work.nodes:
        for source in node.sources:
            last[source] = max(last.get(source, -1), place[node.name])
    return [
        sum(size for name, size in sizes.items() if place[name] < cut <= last.get(name, -1))
        for cut in range(len(chain) + 1)
    ]


@rules.register("tsqp")
@dataclass(frozen=True, slots=True, kw_only=True)
class Tsqp:
    """Linear nodes outside with int8 weights in the clear, scales and the rest inside (TSQP; IEEE S&P 2025).

    As published: bounded masks, and probes checked instead of answers. An insecure baseline for comparison.
    """

    def place(self, work: Workload, machine: Machine, budget: int | None) -> dict[str, Placement]:
        """Return probed for linear and grouped nodes."""
        return _trusted(work) | {node.name: "probed" for node in work.nodes if node.linear or "grouped:" in node.reason}


@rules.register("slalom")
@dataclass(frozen=True, slots=True, kw_only=True)
class Slalom:
    """Every linear node outside, checked with Freivalds' algorithm (Slalom; Tramer & Boneh, ICLR 2019)."""

    private: bool = True  # blind the values too

    def place(self, work: Workload, machine: Machine, budget: int | None) -> dict[str, Placement]:
        """Return blinded, or verified, for linear nodes."""
        return _linear_at(work, "blinded" if self.private else "verified")


@rules.register("private-adapters")
@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateAdapters:
    """Nodes with public weights outside, blinded and checked; every other node trusted (after TEESlice, S&P 2024).

    What is offloaded carries no secret weight, because everybody has it already.
    """

    public: frozenset[str] = field(default_factory=frozenset)  # linear nodes, see public_nodes(); as text joined by |

    def __post_init__(self) -> None:
        given: object = self.public  # from a specification it is text
        if isinstance(given, str):
            object.__setattr__(self, "public", frozenset(_patterns(given)))

    def place(self, work: Workload, machine: Machine, budget: int | None) -> dict[str, Placement]:
        """Return blinded for public nodes."""
        if not self.public:
            raise InvalidConfig("no node has public weights", hint="name the public model it was made from (--public)")
        if unknown := sorted(self.public - {node.name for node in work.linear()}):
            raise InvalidConfig(f"there is no linear node {unknown[0]!r} to be public")
        return _trusted(work) | {node.name: "blinded" for node in work.linear() if node.name in self.public}


def public_nodes(model: nn.Module, public: nn.Module) -> frozenset[str]:
    """Return the integer layers of ``model`` whose codes and scales are those of the same layer of ``public``.

    Biases count as well: what differs anywhere is private.
    """
    theirs = integer_layers(public)
    return frozenset(
        name
        for name, layer in integer_layers(model).items()
        if name in theirs
        and torch.equal(layer.codes, theirs[name].codes)
        and torch.equal(layer.weight_scale, theirs[name].weight_scale)
        and _same(layer.bias, theirs[name].bias)
    )


def _same(left: torch.Tensor | None, right: torch.Tensor | None) -> bool:
    if left is None or right is None:
        return left is right
    return torch.equal(left, right)
