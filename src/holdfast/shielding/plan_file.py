"""A plan on disk: where each layer of one model computes, read with suspicion and held against that model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast._files import read_bytes, write_atomic
from holdfast.errors import DigestMismatch, InvalidConfig, UnreadableArtifact, UnsupportedVersion
from holdfast.evidence import canonical
from holdfast.models import card, manifest_of
from holdfast.shielding.graph import IntegerModel
from holdfast.shielding.integer import integer_layers
from holdfast.shielding.offloaded import Where
from holdfast.shielding.planner import SIGHTS, Plan
from holdfast.shielding.planner.plan import FORMAT

_DIGEST = re.compile(r"[0-9a-f]{64}")
_AGAIN = "make one for this model: holdfast shield plan MODEL -o plan.json"
_CHECKED: dict[str, Where] = {"trusted": "trusted", "verified": "verified", "blinded": "blinded"}


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPlan:
    """What a plan says about its model.

    Attributes:
        name: of the file, for messages.
        model: digest of the manifest of the model it is for: an integer model, or the float model it is exported from.
        rule: specification of the rule that made it.
        linear: placement of each node that can be offloaded, by path.
        others: placement of every other node, by name.
        mask_memory: bytes that its budget leaves to the masks of a session; None is no limit.
    """

    name: str
    model: str
    rule: str
    linear: Mapping[str, str]
    others: Mapping[str, str]
    mask_memory: int | None = None

    def placements(self, model: IntegerModel) -> dict[str, Where]:
        """Return where each layer of ``model`` computes, for a session.

        Raises:
            DigestMismatch: the plan is of another model.
            InvalidConfig: it places a node where answers are not checked, or leaves nothing to offload.
        """
        self._require_of(model)
        every = {**self.others, **self.linear}
        ordered = (*sorted(self.linear), *sorted(self.others))
        if believed := [name for name in ordered if every[name] not in _CHECKED]:
            raise InvalidConfig(
                f"{self.name} leaves {believed[0]!r} {every[believed[0]]}: no session believes an answer unchecked",
                hint=f"the rule {self.rule} is for comparison; plan with optimal or slalom",
            )
        if all(where == "trusted" for where in self.linear.values()):
            raise InvalidConfig(
                f"{self.name} keeps every layer trusted, so there is nothing to offload",
                hint="run the model without workers, or plan with a --budget or --rule that offloads",
            )
        return {name: _CHECKED[where] for name, where in self.linear.items()}

    def _require_of(self, model: IntegerModel) -> None:
        known = [step.inputs["model"] for step in card(model).lineage[-1:] if "model" in step.inputs]
        if self.model not in (own := manifest_of(model).digest, *known):
            raise DigestMismatch(f"{self.name} is of model {self.model[:12]}, not of {own[:12]}", hint=_AGAIN)
        if odd := sorted(integer_layers(model).keys() ^ self.linear.keys()):
            raise DigestMismatch(f"{self.name} and the model differ at node {odd[0]!r}", hint=_AGAIN)


def write_plan(path: Path | str, plan: Plan, model: str) -> None:
    """Write a plan with the digest of the model that it is for.

    Raises:
        StorageError: the disk refuses.
    """
    write_atomic(path, canonical.dumps(plan.to_json() | {"model": model}))


def read_plan(path: Path | str) -> StoredPlan:
    """Read what :func:`write_plan` wrote.

    Raises:
        UnreadableArtifact, UnsupportedVersion: missing, damaged, of another version, or of no model.
    """
    value = canonical.loads(read_bytes(path, "plan"), what=str(path))
    if not isinstance(value, dict) or value.get("type") != FORMAT:
        raise UnsupportedVersion(f"{path} is no {FORMAT}", hint=_AGAIN)
    model, nodes = value.get("model"), value.get("nodes")
    if not isinstance(model, str) or not _DIGEST.fullmatch(model):
        raise UnreadableArtifact(f"{path} does not say which model it is for", hint=_AGAIN)
    if not isinstance(nodes, list) or not isinstance(value.get("rule"), str):
        raise UnreadableArtifact(f"{path} has no nodes or no rule", hint=_AGAIN)
    rows = [_row(node, str(path)) for node in nodes]
    if len({name for name, *_ in rows}) != len(rows):
        raise UnreadableArtifact(f"{path} places a node twice", hint=_AGAIN)
    linear, others = ({name: where for name, is_linear, where in rows if is_linear == want} for want in (True, False))
    memory = _mask_memory(value, str(path))
    return StoredPlan(name=str(path), model=model, rule=value["rule"], linear=linear, others=others, mask_memory=memory)


def _mask_memory(value: Mapping[str, Any], path: str) -> int | None:
    """Return what the budget leaves to masks; a plan with a budget always says."""
    memory: Any = value.get("mask_memory")
    budget = value.get("budget")
    if budget is None and memory is None:
        return None
    if type(budget) is int and type(memory) is int and 1 <= memory <= budget:  # a bool is an int, and no size
        return memory
    raise UnreadableArtifact(f"{path} has a budget of {budget!r} bytes and leaves {memory!r} to masks", hint=_AGAIN)


def _row(node: Any, path: str) -> tuple[str, bool, str]:
    """Return the name of a node, whether it can be offloaded, and its placement."""
    texts = isinstance(node, dict) and all(isinstance(node.get(key), str) for key in ("name", "reason", "placement"))
    if not texts or node["placement"] not in SIGHTS:
        raise UnreadableArtifact(f"{path} holds a node without a name or a known placement", hint=_AGAIN)
    return node["name"], not node["reason"], node["placement"]
