"""An integer graph as rules see it: a chain of stages, cuts between them, and regions that leave the trusted world."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from holdfast.shielding.planner.costs import Placement
from holdfast.shielding.planner.workload import Node, Workload


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
