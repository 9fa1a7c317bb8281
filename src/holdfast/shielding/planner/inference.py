"""What the worker can work out beyond what it is sent: values on the other side of work that it knows.

A ReLU between two layers hides nothing: who sees one side of it knows the other. So values are joined to those they are
computed from, in both directions, across every node whose function the worker may know: small work, since its tables
and curves are no secret to speak of, and linear nodes that are offloaded, since their weights are in the clear. Only a
linear node that stays trusted parts what is before it from what is after it, as long as its weights are unknown: nodes
that hold the same weights tell of each other, and values on both sides of trusted layers are equations for the weights
between them. This errs on the side of the secret: a sum
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
    named = {sets[name] for node in work.nodes if node.name in hidden for name in (*node.sources, node.name)}
    return _touching(work, sets, named)


def shelters(work: Workload, hidden: Collection[str], unknown: Collection[str]) -> list[frozenset[str]]:
    """Return the ways to keep weights unknown: each the linear nodes whose values must stay hidden for that.

    Who knows values before a layer and values after it solves for its weights, or trains a substitute for what lies
    between. So for each node of ``unknown`` all values before it stay hidden, or all after it.

    Args:
        hidden: linear nodes whose inputs and outputs the worker must not come to know in any case.
        unknown: nodes whose weights it must not come to know: linear ones trusted, and what holds the same weights.

    Returns:
        Sets of which none contains another; at least one.
    """
    sets = joined(work, lambda node: node.name in unknown)
    shown = {sets[name] for node in work.linear() if node.name not in unknown for name in (*node.sources, node.name)}
    before, after = _reached(work, {name: frozenset({part} & shown) for name, part in sets.items()})
    ways = {frozenset(sets[name] for node in work.nodes if node.name in hidden for name in (*node.sources, node.name))}
    for node in work.nodes:
        if node.name in unknown:
            grown = {way | side[node.name] for way in ways for side in (before, after)}
            ways = {way for way in grown if not any(other < way for other in grown)}
    return [_touching(work, sets, way) for way in sorted(ways, key=sorted)]


def _touching(work: Workload, sets: Mapping[str, str], hidden: Collection[str]) -> frozenset[str]:
    """Return the linear nodes that have an input or output in one of the ``hidden`` sets."""
    return frozenset(
        node.name for node in work.linear() if any(sets[name] in hidden for name in (*node.sources, node.name))
    )


def _reached(
    work: Workload, own: Mapping[str, frozenset[str]]
) -> tuple[dict[str, frozenset[str]], dict[str, frozenset[str]]]:
    """Return what the values before each node, and those from it on, have of their ``own``, by node."""
    upto, after = {work.input: own[work.input]}, {node.name: own[node.name] for node in work.nodes}
    before: dict[str, frozenset[str]] = {}
    for node in work.nodes:
        before[node.name] = frozenset[str]().union(*(upto[name] for name in node.sources))
        upto[node.name] = before[node.name] | own[node.name]
    for node in reversed(work.nodes):
        for name in node.sources:
            if name != work.input:
                after[name] |= after[node.name]
    return before, after


def inferable(work: Workload, words: Mapping[str, str]) -> dict[str, str]:
    """Return the values that the worker sees or may work out, each with a node that shows it, as near as there is."""
    return told(work, words)[0]


def told(work: Workload, words: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the values, and the nodes whose weights, the worker sees or may work out, each with what shows it.

    Weights are told by their own node, by one that holds the same, or by values before and after it. Weights that are
    told let values through, which may tell of further weights.
    """
    weights = _shared(work, {node.name: node.name for node in work.nodes if words[node.name] != "trusted"})
    while True:
        values = _values(work, words, weights)
        grown = _shared(work, _between(work, values) | weights)
        if grown.keys() == weights.keys():
            return values, weights
        weights = grown


def _shared(work: Workload, weights: Mapping[str, str]) -> dict[str, str]:
    """Return ``weights`` with those that other nodes hold too."""
    found: dict[str, str] = dict(weights)
    for name, shown in weights.items():
        for other in work.holders([name]):
            found.setdefault(other, shown)
    return found


def _between(work: Workload, values: Mapping[str, str]) -> dict[str, str]:
    """Return the nodes with weights that lie between known values, each with what shows those."""
    before: dict[str, str] = {work.input: values.get(work.input, "")}
    after = {node.name: values.get(node.name, "") for node in work.nodes}
    taken: dict[str, str] = {}
    for node in work.nodes:
        taken[node.name] = next(filter(None, (before[name] for name in node.sources)), "")
        before[node.name] = values.get(node.name) or taken[node.name]
    for node in reversed(work.nodes):
        for name in node.sources:
            if name != work.input:
                after[name] = after[name] or after[node.name]
    return {
        node.name: " and ".join(dict.fromkeys((taken[node.name], after[node.name])))
        for node in work.nodes
        if node.weights and taken[node.name] and after[node.name]
    }


def _values(work: Workload, words: Mapping[str, str], known: Collection[str]) -> dict[str, str]:
    """Return the values that are told of, where the weights of ``known`` nodes are."""
    found: dict[str, str] = {}
    for node in work.nodes:
        if words[node.name] in SEEN:
            for name in (*node.sources, node.name):
                found.setdefault(name, node.name)
    for near in (True, False):  # first through small work alone, then through layers with known weights
        sets = joined(work, lambda node, near=near: near or node.name not in known)  # type: ignore[misc]
        shows: dict[str, str] = {}
        for name, shown in found.items():
            shows.setdefault(sets[name], shown)
        found = {name: shows[part] for name, part in sets.items() if part in shows} | found
    return found
