"""The fastest placement that meets what is demanded."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from holdfast.errors import InvalidConfig
from holdfast.shielding.planner.costs import Placement, cost
from holdfast.shielding.planner.inference import shelters, told
from holdfast.shielding.planner.laws import Machine
from holdfast.shielding.planner.rule import patterns, rules
from holdfast.shielding.planner.solve import Option, fastest
from holdfast.shielding.planner.workload import Node, Workload


@rules.register("optimal")
@dataclass(frozen=True, slots=True, kw_only=True)
class Optimal:
    """The fastest placement that meets the demands and fits the budget; exact for the measured costs.

    Every linear node is trusted, verified or blinded; small work stays trusted, so no answer is ever believed. A value
    is hidden where the worker cannot work it out either: what a demand names spreads to every linear node that is
    connected with it. Only nodes whose weights are hidden part what must be hidden from the rest. Weights are hidden
    wherever they are held, and so are all values before them or all after them, whichever is faster.
    """

    hide_weights: str = "none"  # globs joined by |: the worker must not see these nodes' weights
    hide_values: str = "*"  # globs joined by |: nor work out these nodes' inputs and outputs

    def place(self, work: Workload, machine: Machine, budget: int | None) -> dict[str, Placement]:
        """Return the optimum."""
        weights, named = (work.matching(patterns(text)) for text in (self.hide_weights, self.hide_values))
        unknown = work.holders(weights)
        ways: list[tuple[float, dict[str, Placement]]] = []
        full: InvalidConfig | None = None
        for values in shelters(work, named, unknown):
            try:
                ways.append(self._fastest(work, machine, budget, unknown, values))
            except InvalidConfig as error:  # what hides other values may fit
                full = error
        if not ways and full is not None:
            raise full
        return min(ways, key=lambda way: way[0])[1]

    def broken(self, work: Workload, words: Mapping[str, Placement]) -> str:
        """Return what a placement shows against the demands, in words; nothing if it meets them."""
        values, weights = told(work, words)
        for name in work.matching(patterns(self.hide_weights)):
            if name in weights:
                return f"weights of {name!r}"
        hidden = work.matching(patterns(self.hide_values))
        for node in work.nodes:
            if node.name in hidden and any(value in values for value in (*node.sources, node.name)):
                return f"values of {node.name!r}"
        return ""

    def _fastest(
        self, work: Workload, machine: Machine, budget: int | None, weights: Collection[str], values: Collection[str]
    ) -> tuple[float, dict[str, Placement]]:
        ways = [self._options(node, machine, node.name in weights, node.name in values) for node in work.nodes]
        words = fastest(ways, budget, held=work.peak())
        placed: dict[str, Placement] = {node.name: word for node, word in zip(work.nodes, words, strict=True)}  # type: ignore[misc]
        return sum(cost(node, placed[node.name], machine).seconds for node in work.nodes), placed

    def _options(self, node: Node, machine: Machine, hide_weights: bool, hide_values: bool) -> list[Option]:
        words: list[Placement] = ["trusted"]
        if node.linear and not hide_weights:
            words += ["blinded"] if hide_values else ["verified", "blinded"]
        costs = {word: cost(node, word, machine) for word in words}
        return [Option(word, item.seconds, item.memory) for word, item in costs.items()]
