"""What the worker can work out beyond what it is sent: values on the other side of work that it knows.

A ReLU between two layers hides nothing: who sees one side of it knows the other. So values are joined to those they are
computed from, in both directions, across every node whose function the worker may know: small work, since its tables
and curves are no secret to speak of, and linear nodes that are offloaded, since their weights are in the clear. Only a
linear node that stays trusted parts what is before it from what is after it. This errs on the side of the secret: a sum
joins all its terms, though one of them does not give the others away.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from holdfast.shielding.planner.workload import Node, Workload

SEEN = frozenset(("verified", "probed", "exposed"))  # placements that show the worker more than uniform residues


def joined(work: Workload, parts: Callable[[Node], bool]) -> dict[str, str]:
    """Return one name for each set of values that tell of each other, by value: the input, or a node's output.

    Args:
        parts: whether a linear node's function is unknown to the worker.
    """
    above = {name: name for name in (work.input, *(node.name for node in work.nodes))}

    def top(name: str) -> str:
        while above[name] != name:
            above[name] = name = above[above[name]]
        return name

    for node in work.nodes:
        names = (*node.sources, *(() if node.linear and parts(node) else (node.name,)))
        for name in names[1:]:
            above[top(name)] = top(names[0])
    return {name: top(name) for name in above}


def spread(work: Workload, hidden: Collection[str], unknown: Collection[str]) -> frozenset[str]:
    """Return the linear nodes whose values must stay hidden so that those of ``hidden`` do.

    Args:
        hidden: linear nodes whose inputs and outputs the worker must not come to know.
        unknown: linear nodes whose weights it does not come to know.
    """
    sets = joined(work, lambda node: node.name in unknown)
    told = {sets[name] for node in work.nodes if node.name in hidden for name in (*node.sources, node.name)}
    return frozenset(
        node.name for node in work.linear() if not told.isdisjoint(sets[name] for name in (*node.sources, node.name))
    )


def inferable(work: Workload, words: Mapping[str, str]) -> dict[str, str]:
    """Return the values that the worker sees or may work out, each with a node that shows it, as near as there is."""
    found: dict[str, str] = {}
    for node in work.nodes:
        if words[node.name] in SEEN:
            for name in (*node.sources, node.name):
                found.setdefault(name, node.name)
    for near in (True, False):  # first through small work alone, then through offloaded layers
        sets = joined(work, lambda node, near=near: near or words[node.name] == "trusted")  # type: ignore[misc]
        told: dict[str, str] = {}
        for name, shown in found.items():
            told.setdefault(sets[name], shown)
        found = {name: told[part] for name, part in sets.items() if part in told} | found
    return found
