"""A plan on disk: where each layer of one model computes, read with suspicion and held against that model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast

from holdfast._files import read_bytes, write_atomic
from holdfast.errors import DigestMismatch, InvalidConfig, UnreadableArtifact, UnsupportedVersion
from holdfast.evidence import canonical
from holdfast.models import card, manifest_of
from holdfast.shielding.graph import IntegerModel
from holdfast.shielding.integer import integer_layers
from holdfast.shielding.offloaded import Where
from holdfast.shielding.planner import (
    SIGHTS,
    Cost,
    Deadline,
    Law,
    Laws,
    Machine,
    Node,
    Optimal,
    Placement,
    Plan,
    PrivateAdapters,
    Slalom,
    Workload,
    rules,
    workload,
)
from holdfast.shielding.planner.plan import FORMAT, assemble
from holdfast.shielding.planner.published import First, Last, Tsqp, Unshielded, Whole

_DIGEST = re.compile(r"[0-9a-f]{64}")
_AGAIN = "make one for this model: holdfast shield plan MODEL -o plan.json"
_KEYS = {"type", "model", "rule", "nodes", "total", "budget", "mask_memory", "top_code", "guarantees"}
_TIMES = ("seconds", "offline")  # what depends on the machine that the plan was made for
_ROW = {part.name for part in fields(Node)} | {"placement", "world", "sees", *(f"cost_{p.name}" for p in fields(Cost))}
_FREE = Laws(conv2d=Law(), linear=Law())
_NO_MACHINE = Machine(trusted=_FREE, open=_FREE, worker=_FREE, check=_FREE, step=0.0, elements=1.0, pads=1.0,
                      bandwidth=1.0, crossing=0.0)  # fmt: skip  # for everything but times
_KEPT_OR_BELIEVED = (Deadline, First, Last, Tsqp, Unshielded, Whole)  # rules that never have an answer checked
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
        said: all that the file says.
        mask_memory: bytes that its budget leaves to the masks of a session; None is no limit.
    """

    name: str
    model: str
    rule: str
    linear: Mapping[str, Placement]
    others: Mapping[str, Placement]
    said: Mapping[str, Any]
    mask_memory: int | None = None

    def placements(self, model: IntegerModel) -> dict[str, Where]:
        """Return where each layer of ``model`` computes, for a session.

        Raises:
            DigestMismatch: the plan is of another model, or tells its readers other than what it keeps.
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
        self._require_honest(model)
        return {name: _CHECKED[where] for name, where in self.linear.items()}

    def _require_honest(self, model: IntegerModel) -> None:
        """Refuse a file that says anything else than what its placement means for ``model``; only times are not known.

        No session reads most of it; people do.
        """
        work, words = workload(model), {**self.others, **self.linear}
        if odd := sorted(words.keys() ^ {node.name for node in work.nodes}):
            raise DigestMismatch(f"{self.name} and the model differ at node {odd[0]!r}", hint=_AGAIN)
        self._require_same({"top_code": self.said["top_code"]}, {"top_code": model.top_code}, "")
        made = assemble(work, words, _NO_MACHINE, rule=self.rule, budget=self.said["budget"])
        right = canonical.loads(canonical.dumps(made.to_json()), what=self.name)
        by_name = {row["name"]: row for row in self.said["nodes"]}
        for row in right["nodes"]:
            self._require_same(by_name[row["name"]], row, f" of {row['name']!r}")
        if self.said["guarantees"] != right["guarantees"]:
            raise DigestMismatch(f"{self.name} promises other than what its placement keeps", hint=_AGAIN)
        self._require_same(_timeless(self.said["total"]), _timeless(right["total"]), " in all")
        self._require_same(self.said, right | {"model": self.model, "nodes": self.said["nodes"]}, "")
        self._require_ruled(work, words)

    def _require_same(self, said: Any, right: Mapping[str, Any], where: str) -> None:
        if not isinstance(said, Mapping):
            raise DigestMismatch(f"{self.name} says {said!r:.80}{where}", hint=_AGAIN)
        if said.get("sees") != right.get("sees"):
            raise DigestMismatch(f"{self.name} says{where} other than what the worker sees", hint=_AGAIN)
        for key in sorted(right.keys() | said.keys()):
            if key != "total" and key.removeprefix("cost_") not in _TIMES and said.get(key) != right.get(key):
                raise DigestMismatch(
                    f"{self.name} says {key} {said.get(key)!r:.80}{where}; of this model it is {right.get(key)!r:.80}",
                    hint=_AGAIN,
                )

    def _require_ruled(self, work: Workload, words: Mapping[str, Placement]) -> None:
        """Refuse a placement that the rule of the file would not have made; optimal's only if it breaks a demand."""
        rule = rules.build(self.rule)
        if isinstance(rule, Optimal) and (broken := rule.broken(work, words)):
            raise DigestMismatch(f"{self.name} is of the rule {self.rule}, and shows {broken}", hint=_AGAIN)
        placed = rule.place(work, _NO_MACHINE, None) if isinstance(rule, Slalom | PrivateAdapters) else words
        if placed != words or isinstance(rule, _KEPT_OR_BELIEVED):
            raise DigestMismatch(f"{self.name} has another placement than its rule {self.rule}", hint=_AGAIN)

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
    for part, keys in ((value, _KEYS), *((node, _ROW) for node in nodes)):
        if odd := sorted(part.keys() ^ keys):
            raise UnreadableArtifact(f"{path} has {'no' if odd[0] in keys else 'an unknown'} {odd[0]!r}", hint=_AGAIN)
    if len({name for name, *_ in rows}) != len(rows):
        raise UnreadableArtifact(f"{path} places a node twice", hint=_AGAIN)
    linear, others = ({name: where for name, is_linear, where in rows if is_linear == want} for want in (True, False))
    return StoredPlan(
        name=str(path),
        model=model,
        rule=value["rule"],
        linear=linear,
        others=others,
        said=value,
        mask_memory=_mask_memory(value, str(path)),
    )


def _mask_memory(value: Mapping[str, Any], path: str) -> int | None:
    """Return what the budget leaves to masks; a plan with a budget always says."""
    memory: Any = value.get("mask_memory")
    budget = value.get("budget")
    if budget is None and memory is None:
        return None
    if type(budget) is int and type(memory) is int and 1 <= memory <= budget:  # a bool is an int, and no size
        return memory
    raise UnreadableArtifact(f"{path} has a budget of {budget!r} bytes and leaves {memory!r} to masks", hint=_AGAIN)


def _timeless(total: Any) -> Any:
    return {key: value for key, value in total.items() if key not in _TIMES} if isinstance(total, dict) else total


def _row(node: Any, path: str) -> tuple[str, bool, Placement]:
    """Return the name of a node, whether it can be offloaded, and its placement."""
    texts = isinstance(node, dict) and all(isinstance(node.get(key), str) for key in ("name", "reason", "placement"))
    if not texts or node["placement"] not in SIGHTS:
        raise UnreadableArtifact(f"{path} holds a node without a name or a known placement", hint=_AGAIN)
    return node["name"], not node["reason"], cast(Placement, node["placement"])
