"""What a model's own ``model.json`` tells of its history, held against what was signed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.errors import LineageBroken
from holdfast.evidence import canonical
from holdfast.evidence.lineage import Step, outputs_of
from holdfast.evidence.provenance import Resource, build_type
from holdfast.evidence.statement import Subject
from holdfast.signing.lineage.graph import Graph, Node
from holdfast.signing.lineage.stored import DESCRIPTION, identify, stored_steps
from holdfast.signing.passport import BUNDLE

if TYPE_CHECKING:
    from torch import nn


def require_told(model: nn.Module | Path | str | Subject, graph: Graph) -> None:
    """Raise :class:`LineageBroken` when a signed statement contradicts a step that the model itself tells."""
    known = _told(model)
    if known is None:
        return
    steps, last = known
    for step, output in zip(steps, outputs_of(steps, last), strict=True):
        node = graph.find(Resource(step.kind, {"blake3": output})) if output else None
        if node is not None and node.made:
            _require_same(step, node)


def _told(model: nn.Module | Path | str | Subject) -> tuple[Sequence[Step], str] | None:
    if isinstance(model, Subject):
        return None
    if not isinstance(model, Path | str):
        from holdfast.models import card

        return tuple(card(model).lineage), identify(model).digest["blake3"]
    folder = Path(model)
    folder = folder / "model" if (folder / BUNDLE).is_file() else folder
    if not (folder / DESCRIPTION).is_file():
        return None
    return stored_steps(folder), identify(folder).digest["blake3"]


def _require_same(step: Step, node: Node) -> None:
    """Compare with every statement of the step's own build type; other builders have words of their own."""
    for item in node.made:
        made = item.provenance
        if made is None or made.build_type != build_type(step.kind):
            continue
        signed = frozenset(value for resource in made.inputs for value in resource.identities)
        if missing := sorted(role for role, digest in step.inputs.items() if digest not in signed):
            told = f"{missing[0]} that model.json tells of {step.kind}"
            raise LineageBroken(f"{item.source.name} does not name the {told}")
        if canonical.dumps(made.parameters) != canonical.dumps(step.parameters):
            raise LineageBroken(f"{item.source.name} and model.json tell of different parameters of {step.kind}")
