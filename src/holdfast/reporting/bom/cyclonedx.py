"""CycloneDX 1.6 ML-BOM (https://cyclonedx.org/docs/1.6/json/) of a verified lineage.

A model's ``BLAKE3`` hash is the digest of its manifest, not of one file; a property says so.
"""

from __future__ import annotations

import uuid
from typing import Any

from holdfast.evidence.provenance import Resource
from holdfast.reporting.bom import facts
from holdfast.signing.lineage import Node, VerifiedLineage
from holdfast.signing.lineage.steps import holdfast_version

SPEC = "1.6"
_TYPES = {"model": "machine-learning-model", "dataset": "data", "file": "file", "assessment": "file"}
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://holdfast.dev/cyclonedx/v1")


def cyclonedx(found: VerifiedLineage, *, created: str) -> dict[str, Any]:
    """Return the bill of materials as JSON: the model in the metadata, all it was made of as components."""
    target, *others = found.nodes
    libraries = {item.uri: item for node in found.nodes for item in facts.packages(node)}
    return {
        "$schema": f"http://cyclonedx.org/schema/bom-{SPEC}.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": SPEC,
        "serialNumber": f"urn:uuid:{uuid.uuid5(_NAMESPACE, found.target)}",
        "version": 1,
        "metadata": {
            "timestamp": created,
            "tools": {"components": [{"type": "application", "name": "holdfast", **_version()}]},
            "component": _component(found, target),
        },
        "components": [
            *(_component(found, node) for node in others),
            *(_library(libraries[uri]) for uri in sorted(libraries)),
        ],
        "dependencies": [_depends(found, node) for node in found.nodes],
    }


def _version() -> dict[str, str]:
    return {"version": holdfast_version()["holdfast"]}


def _component(found: VerifiedLineage, node: Node) -> dict[str, Any]:
    told = facts.origin(node)
    value: dict[str, Any] = {
        "type": _TYPES.get(node.kind, "file"),
        "bom-ref": node.key,
        "name": node.name,
        "hashes": _hashes(node),
        "properties": _properties(found, node),
    }
    if licence := facts.text(told, "licence"):
        value["licenses"] = [{"expression": licence}]
    if uri := facts.text(told, "uri"):
        value["externalReferences"] = [{"type": "distribution", "url": uri}]
    if node.kind == "dataset":
        value["data"] = [{"type": "dataset", "name": node.name}]
    if node.kind == "model":
        value |= _model(found, node)
    return value


def _model(found: VerifiedLineage, node: Node) -> dict[str, Any]:
    """Return the model card, and the models this one comes from."""
    inputs = facts.inputs(found, node)
    data = sorted({item.node.key for item in inputs if item.node.kind == "dataset"})
    ancestors = [item for item in inputs if item.node.kind in ("model", "file")]
    card: dict[str, Any] = {"modelParameters": {"datasets": [{"ref": key} for key in data]}} if data else {}
    if measured := facts.metrics(node):
        card["quantitativeAnalysis"] = {"performanceMetrics": [_metric(*item) for item in measured.items()]}
    value: dict[str, Any] = {"modelCard": card} if card else {}
    if ancestors:
        steps = sorted({item.step for item in ancestors})
        value["pedigree"] = {"ancestors": [_ancestor(item.node) for item in ancestors], "notes": ", ".join(steps)}
    return value


def _ancestor(node: Node) -> dict[str, Any]:
    return {"type": _TYPES.get(node.kind, "file"), "name": node.name, "hashes": _hashes(node)}


def _metric(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        return {"type": name, "value": str(value)}
    metric: dict[str, Any] = {"type": name, "value": str(value.get("value", ""))}
    if "low" in value and "high" in value:
        metric["confidenceInterval"] = {"lowerBound": str(value["low"]), "upperBound": str(value["high"])}
    return metric


def _hashes(node: Node) -> list[dict[str, str]]:
    return [{"alg": facts.HASHES[name][0], "content": value} for name, value in facts.hashes(node)]


def _properties(found: VerifiedLineage, node: Node) -> list[dict[str, str]]:
    named = [("holdfast:signer", signer) for signer in found.signers[node.key]]
    named += [("holdfast:accepted", found.leaves[node.key])] if node.key in found.leaves else []
    named += [(f"holdfast:digest:{name}", value) for name, values in node.digest.items() for value in values]
    if node.kind == "model":
        named.append(("holdfast:blake3-of", "manifest"))
    made = facts.provenance(node)
    if made is not None:
        named += [("holdfast:step", made.kind), ("holdfast:builder", made.builder)]
        named += [(f"holdfast:parameter:{name}", value) for name, value in facts.flat(made.parameters)]
    named += [(f"holdfast:fact:{name}", value) for name, value in facts.flat(facts.origin(node).get("facts", {}))]
    return [{"name": name, "value": value} for name, value in named]


def _library(item: Resource) -> dict[str, Any]:
    version = item.uri.rpartition("@")[2]
    return {"type": "library", "bom-ref": item.uri, "name": item.name, "version": version, "purl": item.uri}


def _depends(found: VerifiedLineage, node: Node) -> dict[str, Any]:
    keys = {item.node.key for item in facts.inputs(found, node)}
    return {"ref": node.key, "dependsOn": sorted(keys | {item.uri for item in facts.packages(node)})}
