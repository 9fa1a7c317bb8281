"""What a verified node tells, in the words that both bills of materials need."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from holdfast.evidence.provenance import Provenance, Resource
from holdfast.signing.lineage import ORIGIN_TYPE, Node, VerifiedLineage

HASHES = {"blake3": ("BLAKE3", "blake3"), "sha256": ("SHA-256", "sha256")}  # ours -> CycloneDX, SPDX


@dataclass(frozen=True, slots=True)
class Input:
    """Something that went into a node: what for, by which step, and which node it is."""

    role: str
    step: str
    node: Node


def hashes(node: Node) -> list[tuple[str, str]]:
    """Return (algorithm, value) of the digests whose algorithm other tools know."""
    return [(name, value) for name in HASHES for value in node.digest.get(name, ())]


def inputs(found: VerifiedLineage, node: Node) -> list[Input]:
    """Return what went into a node."""
    return [Input(edge.role, edge.step, found.node(edge.input)) for edge in found.edges if edge.output == node.key]


def provenance(node: Node) -> Provenance | None:
    """Return how a node was made; all its statements agree."""
    return next((item.provenance for item in node.made if item.provenance is not None), None)


def packages(node: Node) -> list[Resource]:
    """Return the software that a node's statements name."""
    found = {item.uri: item for made in node.made if made.provenance for item in made.provenance.inputs}
    return [found[uri] for uri in sorted(found) if uri.startswith("pkg:")]


def metrics(node: Node) -> dict[str, Any]:
    """Return what the statements say was measured."""
    found: dict[str, Any] = {}
    for item in node.made:
        for product in item.provenance.byproducts if item.provenance else ():
            values = product.notes.get("values")
            found |= values if product.name == "metrics" and isinstance(values, dict) else {}
    return dict(sorted(found.items()))


def origin(node: Node) -> dict[str, Any]:
    """Return what those who vouch for a node say of it: uri, licence and facts."""
    found: dict[str, Any] = {}
    for item in node.vouched:
        if item.statement.predicate_type == ORIGIN_TYPE:
            found |= item.statement.predicate
    return found


def text(values: Mapping[str, Any], name: str) -> str:
    """Return a text, empty when there is none."""
    found = values.get(name, "")
    return found if isinstance(found, str) else ""


def flat(value: object, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield (dotted name, text) of every leaf of a JSON value."""
    if isinstance(value, Mapping):
        for name in sorted(value):
            yield from flat(value[name], f"{prefix}.{name}".strip("."))
    elif isinstance(value, list | tuple):
        yield prefix, ", ".join(str(item) for item in value)
    elif value is not None:
        yield prefix, str(value)
