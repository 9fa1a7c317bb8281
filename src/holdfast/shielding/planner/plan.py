"""Plans: where every node computes, what that costs, and who sees what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import nn

from holdfast.errors import InvalidConfig
from holdfast.shielding.planner.chain import regions
from holdfast.shielding.planner.costs import SIGHTS, Cost, Placement, Sight, cost, transfer
from holdfast.shielding.planner.inference import told
from holdfast.shielding.planner.machine import Machine, measure
from holdfast.shielding.planner.rule import Rule, rules, specification
from holdfast.shielding.planner.solve import over_budget
from holdfast.shielding.planner.workload import FLOAT_BYTES, Node, Workload, workload

FORMAT = "holdfast.shield-plan/v1"

_WORD = 4  # bytes of one mask or of what takes it off again, in memory


@dataclass(frozen=True, slots=True)
class Row:
    """One node of a plan; ``sight`` is what the worker sees of it, and what it can work out from other nodes."""

    node: Node
    placement: Placement
    cost: Cost
    sight: Sight

    @property
    def world(self) -> str:
        """The world that computes it."""
        return "trusted" if self.placement == "trusted" else "untrusted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The placement of every node under one rule.

    Attributes:
        rule: specification of the rule.
        rows: nodes in order.
        values: bytes of activations that the trusted world holds at its fullest.
        budget: bytes it may hold, or None.
        top_code: activation codes of linear nodes are -top_code .. top_code.
    """

    rule: str
    rows: tuple[Row, ...]
    values: int
    budget: int | None
    top_code: int

    @property
    def placements(self) -> dict[str, Placement]:
        """Placement of every linear node by path, for a session."""
        return {row.node.name: row.placement for row in self.rows if row.node.linear}

    @property
    def total(self) -> Cost:
        """Costs of one sample over all nodes; ``memory`` includes activations."""
        costs = [row.cost for row in self.rows]
        return Cost(
            sum(item.seconds for item in costs),
            sum(item.offline for item in costs),
            sum(item.bytes for item in costs),
            sum(item.crossings for item in costs),
            sum(item.memory for item in costs) + self.values,
        )

    @property
    def mask_memory(self) -> int | None:
        """Bytes that the budget leaves to masks and unblinding vectors: the ``memory`` of a session; None is no limit.

        Weights, check vectors and activations take the rest; of masks the plan counts those of one sample.
        """
        if self.budget is None:
            return None
        own = sum(_WORD * (row.node.taken + row.node.given) for row in self.rows if row.placement == "blinded")
        return max(self.budget - self.total.memory + own, 1)

    def guarantees(self) -> tuple[str, ...]:
        """Say in sentences what this plan does and does not promise."""
        return promises(
            {row.node.name: row.placement for row in self.rows}, {row.node.name: row.sight for row in self.rows}
        )

    def table(self, *, every: bool = False) -> str:
        """Return an aligned text table, one row per node; runs of trusted small work are one row unless ``every``."""
        head = ("node", "operation", "world", "MACs", "bytes crossing", "worker sees weight", "input", "output", "ms")
        rows = [head, *(_cells(part) for part in (([row] for row in self.rows) if every else _runs(self.rows)))]
        widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
        return "\n".join("  ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)

    def summary(self) -> str:
        """Return the totals as two lines."""
        total, fits = self.total, "" if self.budget is None else f" of {self.budget:,}"
        return (
            f"rule {self.rule}: {1e3 * total.seconds:.2f} ms a sample, {total.crossings} crossings, "
            f"{total.bytes:,} bytes between the worlds, {1e3 * total.offline:.2f} ms of masks before\n"
            f"trusted world: {total.memory:,}{fits} bytes; activation codes within {self.top_code}, by a clamp"
        )

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        rows = [
            {
                **{key: value for key, value in asdict(row.node).items() if key not in ("sources",)},
                "sources": list(row.node.sources),
                "placement": row.placement,
                "world": row.world,
                "sees": asdict(row.sight),
                **{f"cost_{key}": value for key, value in asdict(row.cost).items()},
            }
            for row in self.rows
        ]
        return {
            "type": FORMAT,
            "rule": self.rule,
            "nodes": rows,
            "total": asdict(self.total),
            "budget": self.budget,
            "mask_memory": self.mask_memory,
            "top_code": self.top_code,
            "guarantees": list(self.guarantees()),
        }


_PROMISES: dict[Placement, str] = {
    "trusted": "trusted nodes: the worker sees neither their weights nor their values, only that time passes",
    "verified": "verified nodes: a wrong answer passes with probability at most 2^-33; weights and values are seen",
    "blinded": "blinded nodes: the same check; values reach the worker uniform over Z/256^b, int8 weights in the clear",
    "probed": "probed nodes: NOT verified, since only probes are; small masks leak; int8 weights are in the clear",
    "exposed": "exposed nodes: the worker sees everything and is believed",
}  # fmt: skip
_UNKEPT: dict[Placement, str] = {
    "trusted": "trusted nodes: the worker is not sent their weights or values; those marked inferable it may work out",
    "blinded": f"{_PROMISES['blinded']}; those marked inferable it may work out from other nodes",
}


def _runs(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """Yield nodes with multiply-accumulates alone, and what lies between them, where it shares a world, together."""
    run: list[Row] = []
    for row in rows:
        if run and (row.node.macs or run[-1].node.macs or row.world != run[-1].world):
            yield run
            run = []
        run.append(row)
    if run:
        yield run


def _cells(run: Sequence[Row]) -> tuple[str, ...]:
    first = run[0]
    operations = list(dict.fromkeys(row.node.operation for row in run))
    words = ", ".join(operations) if len(operations) < 4 else f"{', '.join(operations[:3])}, ..."
    weights = [row.sight.weights for row in run if row.node.weights]
    name = first.node.name if len(run) == 1 else f"{first.node.name} .. ({len(run)})"
    return (
        name,
        words,
        first.placement if first.placement == "trusted" else f"untrusted, {first.placement}",
        f"{sum(row.node.macs for row in run):,}",
        f"{sum(row.cost.bytes for row in run):,}",
        max(weights, key=_telling) if weights else "-",
        max((row.sight.input for row in run), key=_telling),
        max((row.sight.output for row in run), key=_telling),
        f"{1e3 * sum(row.cost.seconds for row in run):.3f}",
    )


def plan(
    model: nn.Module, rule: Rule | str = "optimal", *, machine: Machine | None = None, budget: int | None = None
) -> Plan:
    """Place every node of an integer graph.

    Args:
        model: from :func:`~holdfast.shielding.graph.export`.
        rule: a rule or its specification, e.g. ``"last-k:k=3"``.
        machine: rates of the target; measured here by default.
        budget: bytes that the trusted world may hold: weights, check vectors, masks for one sample, activations.

    Raises:
        InvalidConfig: ``model`` is no integer graph, or no placement fits the budget, the deadline or the demands.
        UnknownName: no such rule.
    """
    work = workload(model)
    made = rules.build(rule) if isinstance(rule, str) else rule
    where = machine if machine is not None else measure()
    words = made.place(work, where, budget)
    return assemble(work, words, where, rule=rule if isinstance(rule, str) else specification(rule), budget=budget)


def assemble(
    work: Workload, words: Mapping[str, Placement], machine: Machine, *, rule: str, budget: int | None
) -> Plan:
    """Put costs on a placement, with those of entering and leaving exposed regions.

    Raises:
        InvalidConfig: the trusted world holds more than ``budget``.
    """
    if words.keys() != {node.name for node in work.nodes}:
        raise InvalidConfig("a rule places every node, and no other")
    crossing, seen = regions(work, words), sights(work, words)
    rows = []
    for node in work.nodes:
        own = cost(node, words[node.name], machine)
        for elements in crossing.get(node.name, ()):
            seconds, sent = transfer(elements, machine)
            own = Cost(own.seconds + seconds, own.offline, own.bytes + sent, own.crossings, own.memory)
        rows.append(Row(node, words[node.name], own, seen[node.name]))
    made = Plan(rule=rule, rows=tuple(rows), values=_trusted_values(work, words), budget=budget, top_code=work.top_code)
    if budget is not None and made.total.memory > budget:
        raise over_budget(made.total.memory, budget)
    return made


def sights(work: Workload, words: Mapping[str, Placement]) -> dict[str, Sight]:
    """Return what the worker sees of every node under a placement, and what it can work out from other nodes."""
    values, weights = told(work, words)
    return {node.name: _sight(node, words[node.name], values, weights) for node in work.nodes}


def promises(words: Mapping[str, Placement], seen: Mapping[str, Sight]) -> tuple[str, ...]:
    """Say in sentences what a placement of which the worker sees ``seen`` does and does not promise."""
    said = {word: sentence for word, sentence in _PROMISES.items() if word in words.values()}
    for word in {word for name, word in words.items() if seen[name] != SIGHTS[word]} & said.keys():
        said[word] = _UNKEPT.get(word, said[word])  # other nodes tell of values that this placement keeps
    return tuple(said.values())


def _sight(node: Node, word: Placement, known: Mapping[str, str], weights: Mapping[str, str]) -> Sight:
    """Return what the worker sees of a node, with the ``known`` values and weights that other nodes tell it of."""
    sight = SIGHTS[word]
    if word not in _UNKEPT:
        return sight
    taken = next((known[name] for name in node.sources if name in known), None)
    if word == "trusted" and node.weights and node.name in weights:
        sight = replace(sight, weights=_inferable(sight.weights, weights[node.name]))
    if taken is not None:
        sight = replace(sight, input=_inferable(sight.input, taken))
    if node.name in known:
        sight = replace(sight, output=_inferable(sight.output, known[node.name]))
    return sight


def _inferable(sight: str, name: str) -> str:
    return f"inferable from {name}" if sight == "nothing" else f"{sight}, inferable from {name}"


def _telling(sight: str) -> bool:
    return "inferable" in sight


def _trusted_values(work: Workload, words: Mapping[str, Placement]) -> int:
    """Return the most bytes of activations alive while a node outside exposed regions computes."""
    inside = [size for node, size in zip(work.nodes, work.live(), strict=True) if words[node.name] != "exposed"]
    return max(inside, default=FLOAT_BYTES * work.input_elements)
