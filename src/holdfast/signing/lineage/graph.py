"""The graph of a lineage: things joined by digest, and edges from each to what it was made of.

Names join nothing. Two descriptors are the same thing when they share a digest; one thing may have several (a manifest
and a model id, a dataset's digest and its commitment), but never two of one general algorithm.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from holdfast.errors import DigestMismatch, LineageBroken
from holdfast.evidence.provenance import Resource
from holdfast.signing.lineage.statements import Evidence

_GENERAL = ("blake3", "sha256")
_KINDS = {"data": "dataset", "dataset": "dataset", "model": "model", "base": "model", "file": "file"}


@dataclass(frozen=True, slots=True)
class Node:
    """One thing: the names and digests that statements give it, what kind it is, and what is said about it.

    ``made`` are the statements that say how it was made, ``vouched`` those that only say it is fit to start from.
    """

    key: str  # its first digest in sorted order: "ALGORITHM:HEX"
    name: str
    kind: str  # model, dataset, file, assessment, or empty
    digest: Mapping[str, tuple[str, ...]]  # algorithm -> values
    made: tuple[Evidence, ...] = ()
    vouched: tuple[Evidence, ...] = ()

    @property
    def identities(self) -> frozenset[str]:
        """All digests that join."""
        return frozenset().union(*self.digest.values())

    @property
    def fresh(self) -> bool:
        """Whether it is a model that was built from its architecture and a seed alone."""
        kinds = {item.provenance.kind for item in self.made if item.provenance is not None and not item.inputs}
        return kinds == {"build"} and self.kind == "model"


@dataclass(frozen=True, slots=True, order=True)
class Edge:
    """``output`` was made of ``input``, both node keys, by a step of this kind; ``role`` says what the input was."""

    output: str
    input: str
    role: str
    step: str


@dataclass(frozen=True)
class Graph:
    """Nodes by key, and edges, each in sorted order."""

    nodes: Mapping[str, Node]
    edges: tuple[Edge, ...]
    places: Mapping[str, str]  # digest -> key of its node

    def find(self, resource: Resource) -> Node | None:
        """Return the node of a thing, or None when no statement names it."""
        keys = {self.places[value] for value in resource.identities if value in self.places}
        return self.nodes[keys.pop()] if keys else None

    def inputs(self, key: str) -> list[Edge]:
        """Return the edges to what a node was made of."""
        return self._by_output.get(key, [])

    @cached_property
    def _by_output(self) -> dict[str, list[Edge]]:
        found: dict[str, list[Edge]] = {}
        for edge in self.edges:
            found.setdefault(edge.output, []).append(edge)
        return found


def build_graph(evidence: Iterable[Evidence], target: Resource) -> Graph:
    """Join verified statements, and the thing they are to be about, into a graph.

    Raises:
        DigestMismatch: statements give one thing two digests of one algorithm.
        LineageBroken: two signed statements disagree about how a thing was made.
    """
    found = tuple(evidence)
    groups = _groups([target, *_resources(found)])
    said = _said(found)
    nodes = {node.key: node for node in (_node(group, said) for group in groups)}
    places = {value: node.key for node in nodes.values() for value in node.identities}
    edges = {edge for node in nodes.values() for edge in _edges(node, places)}
    return Graph(dict(sorted(nodes.items())), tuple(sorted(edges)), places)


def _resources(evidence: Iterable[Evidence]) -> Iterator[Resource]:
    for item in evidence:
        yield from item.outputs
        yield from item.inputs


def _groups(resources: Iterable[Resource]) -> list[list[Resource]]:
    """Return the resources grouped by shared digests (union-find over the digests)."""
    parent: dict[str, str] = {}

    def root(value: str) -> str:
        while parent.setdefault(value, value) != value:
            parent[value] = parent[parent[value]]
            value = parent[value]
        return value

    named = [item for item in resources if item.identities]
    for item in named:
        first, *others = sorted(item.identities)
        for other in others:
            parent[root(other)] = root(first)
    groups: dict[str, list[Resource]] = {}
    for item in named:
        groups.setdefault(root(min(item.identities)), []).append(item)
    return list(groups.values())


def _said(evidence: Iterable[Evidence]) -> dict[str, list[Evidence]]:
    """Return digest -> the statements about the thing that it names."""
    found: dict[str, list[Evidence]] = {}
    for item in evidence:
        for value in sorted({value for output in item.outputs for value in output.identities}):
            found.setdefault(value, []).append(item)
    return found


def _node(group: list[Resource], said: Mapping[str, list[Evidence]]) -> Node:
    digest = _digests(group)
    values = sorted(frozenset().union(*digest.values()))
    about = list({item.source: item for value in values for item in said.get(value, ())}.values())
    algorithm = next(name for name in (*_GENERAL, *sorted(digest)) if name in digest)
    made = tuple(item for item in about if item.provenance is not None)
    vouched = tuple(item for item in about if item.provenance is None)
    name = next((item.name for item in group if item.name not in ("", item.role)), group[0].name)
    return Node(f"{algorithm}:{digest[algorithm][0]}", name, _kind(group, made), digest, made, vouched)


def _digests(group: list[Resource]) -> dict[str, tuple[str, ...]]:
    labels: dict[str, set[str]] = {}  # digest -> algorithms
    for item in group:
        for algorithm, value in item.digest.items():
            if value in item.identities:
                labels.setdefault(value, set()).add(algorithm)
    found: dict[str, set[str]] = {}
    for value, algorithms in labels.items():
        special = algorithms - set(_GENERAL)
        for algorithm in special or algorithms:
            found.setdefault(algorithm, set()).add(value)
    for algorithm in _GENERAL:
        if len(found.get(algorithm, ())) > 1:
            names = " and ".join(sorted({item.name for item in group}))
            raise DigestMismatch(f"statements give {names} two {algorithm} digests, as if two things were one")
    return {algorithm: tuple(sorted(values)) for algorithm, values in sorted(found.items())}


def _kind(group: list[Resource], made: tuple[Evidence, ...]) -> str:
    kinds = [_KINDS.get(item.role, item.role) for item in group if item.role]
    return kinds[0] if kinds else ("model" if made else "")


def _edges(node: Node, places: Mapping[str, str]) -> set[Edge]:
    """Return the edges of a node, which all statements about it must agree on."""
    told = {item.source: _inputs(node.key, item, places) for item in node.made}
    first = next(iter(told.values()), set())
    if disagreeing := [source for source, edges in told.items() if edges != first]:
        names = f"{next(iter(told)).name} and {disagreeing[0].name}"
        raise LineageBroken(f"{names} disagree about how {node.name} was made", hint="one of the signers is wrong")
    return first


def _inputs(key: str, item: Evidence, places: Mapping[str, str]) -> set[Edge]:
    step = item.provenance.kind if item.provenance else ""
    named = (resource for resource in item.inputs if resource.identities)
    return {Edge(key, places[min(resource.identities)], resource.role, step) for resource in named}
