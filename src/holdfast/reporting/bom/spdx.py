"""SPDX 3.0.1 (https://spdx.github.io/spdx-spec/v3.0.1/) of a verified lineage, with the AI and Dataset profiles.

Models are ``ai_AIPackage``, datasets ``dataset_DatasetPackage``; signers are the agents who supplied them. Elements are
named below a namespace that is the digest of the model.
"""

from __future__ import annotations

from typing import Any

from holdfast.reporting.bom import facts
from holdfast.signing.lineage import Node, VerifiedLineage
from holdfast.signing.lineage.steps import holdfast_version

CONTEXT = "https://spdx.org/rdf/3.0.1/spdx-context.jsonld"
_CREATION = "_:creation"
_TYPES = {"model": "ai_AIPackage", "dataset": "dataset_DatasetPackage"}


def spdx(found: VerifiedLineage, *, created: str) -> dict[str, Any]:
    """Return the document as JSON-LD."""
    return _Writer(found, created).document()


class _Writer:
    """Collects the elements of one document."""

    def __init__(self, found: VerifiedLineage, created: str) -> None:
        self._found, self._created = found, created
        self._namespace = f"https://holdfast.dev/spdx/{found.target.partition(':')[2]}"
        self._relations: list[dict[str, Any]] = []

    def document(self) -> dict[str, Any]:
        packages = [self._package(node) for node in self._found.nodes]
        for node in self._found.nodes:
            self._relate(node)
        licences, signers = self._licences(), self._signers()
        elements = [*signers, *packages, *licences, *self._relations]
        root = self._id(self._found.node(self._found.target))
        head = {
            **self._element("SpdxDocument", "document"),
            "profileConformance": ["core", "software", "ai", "dataset", "simpleLicensing"],
            "rootElement": [root],
            "element": [item["spdxId"] for item in elements],
        }
        return {"@context": CONTEXT, "@graph": [self._creation(), self._tool(), head, *elements]}

    def _creation(self) -> dict[str, Any]:
        tool = f"{self._namespace}#holdfast"
        return {
            "type": "CreationInfo",
            "@id": _CREATION,
            "specVersion": "3.0.1",
            "created": self._created,
            "createdBy": [tool],
        }

    def _tool(self) -> dict[str, Any]:
        return {**self._element("SoftwareAgent", "holdfast"), "name": f"holdfast {holdfast_version()['holdfast']}"}

    def _element(self, kind: str, name: str) -> dict[str, Any]:
        return {"type": kind, "spdxId": f"{self._namespace}#{name}", "creationInfo": _CREATION}

    def _id(self, node: Node) -> str:
        return f"{self._namespace}#{_fragment(node)}"

    def _package(self, node: Node) -> dict[str, Any]:
        value = self._element(_TYPES.get(node.kind, "software_File"), _fragment(node))
        value |= {"name": node.name, "verifiedUsing": _hashes(node)}
        value |= {"externalIdentifier": _identifiers(node)} if _identifiers(node) else {}
        if signers := self._found.signers[node.key]:
            value["originatedBy"] = [self._agent(name) for name in signers]
        if (made := facts.provenance(node)) is not None and made.finished:
            value["builtTime"] = made.finished
        return value | (_model(node) if node.kind == "model" else _data(node) if node.kind == "dataset" else {})

    def _agent(self, signer: str) -> str:
        return f"{self._namespace}#signer-{_plain(signer)}"

    def _signers(self) -> list[dict[str, Any]]:
        names = sorted({name for signers in self._found.signers.values() for name in signers})
        return [{**self._element("Agent", f"signer-{_plain(name)}"), "name": name} for name in names]

    def _licences(self) -> list[dict[str, Any]]:
        kind, found = "simplelicensing_LicenseExpression", {}
        for node in self._found.nodes:
            if text := facts.text(facts.origin(node), "licence"):
                found[text] = {**self._element(kind, f"licence-{_plain(text)}"), f"{kind[:-17]}licenseExpression": text}
                self._relation(self._id(node), "hasDeclaredLicense", [found[text]["spdxId"]])
        return [found[text] for text in sorted(found)]

    def _relate(self, node: Node) -> None:
        """Say what a node comes from: a training's data trained it, other data was used by it, models are ancestors."""
        for item in facts.inputs(self._found, node):
            if item.node.kind == "dataset":
                kind, comment = ("trainedOn" if item.step == "train" else "dependsOn"), f"data of {item.step}"
            elif node.kind == "model":
                kind, comment = "descendantOf", item.step
            else:
                kind, comment = "dependsOn", item.step
            self._relation(self._id(node), kind, [self._id(item.node)], comment)

    def _relation(self, start: str, kind: str, ends: list[str], comment: str = "") -> None:
        value = self._element("Relationship", f"relation-{len(self._relations) + 1}")
        value |= {"from": start, "relationshipType": kind, "to": ends}
        self._relations.append(value | ({"comment": comment} if comment else {}))


def _fragment(node: Node) -> str:
    return f"{node.kind or 'file'}-{node.key.partition(':')[2][:32]}"


def _plain(text: str) -> str:
    """Return ``text`` as a fragment of an IRI."""
    return "".join(letter if letter.isascii() and letter.isalnum() else f"_{ord(letter):x}" for letter in text)


def _hashes(node: Node) -> list[dict[str, str]]:
    return [
        {"type": "Hash", "algorithm": facts.HASHES[name][1], "hashValue": value} for name, value in facts.hashes(node)
    ]


def _identifiers(node: Node) -> list[dict[str, str]]:
    """Return the digests that SPDX has no algorithm for."""
    others = [(name, value) for name, values in node.digest.items() if name not in facts.HASHES for value in values]
    return [
        {"type": "ExternalIdentifier", "externalIdentifierType": "other", "identifier": value, "comment": name}
        for name, value in others
    ]


def _model(node: Node) -> dict[str, Any]:
    made = facts.provenance(node)
    value: dict[str, Any] = {
        "software_primaryPurpose": "model",
        "software_packageVersion": node.key.partition(":")[2][:12],
    }
    if made is not None and (chosen := list(facts.flat(made.parameters))):
        value["ai_hyperparameter"] = [_entry(*item) for item in chosen]
    if measured := list(facts.flat(facts.metrics(node))):
        value["ai_metric"] = [_entry(*item) for item in measured]
    if uri := facts.text(facts.origin(node), "uri"):
        value["software_downloadLocation"] = uri
    return value


def _data(node: Node) -> dict[str, Any]:
    told = facts.origin(node)
    known = told.get("facts", {}) if isinstance(told.get("facts", {}), dict) else {}
    image = isinstance(known.get("shape"), list) and len(known["shape"]) == 3
    value: dict[str, Any] = {
        "software_primaryPurpose": "data",
        "dataset_datasetType": ["image" if image else "noAssertion"],
    }
    if isinstance(known.get("samples"), int):
        value["dataset_datasetSize"] = known["samples"]
    if uri := facts.text(told, "uri"):
        value["software_downloadLocation"] = uri
    return value


def _entry(key: str, value: str) -> dict[str, str]:
    return {"type": "DictionaryEntry", "key": key, "value": value}
