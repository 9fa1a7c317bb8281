"""A lineage as a picture of boxes and arrows, verified or only told, and its forms as text, JSON and Graphviz."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from holdfast.evidence.lineage import Step, outputs_of
from holdfast.signing.lineage.graph import Node
from holdfast.signing.lineage.verify import VerifiedLineage

_WORDS = {
    "signed": "signed by",
    "listed": "accepted by its digest",
    "gap": "NOT PROVED",
    "told": "told, not verified",
}


@dataclass(frozen=True, slots=True)
class Box:
    """One thing: what to call it, how it was made, its digest, and what is known of it.

    ``state`` is ``signed``, ``listed``, ``gap`` or ``told``; ``by`` names signers, or says why there is a gap.
    """

    key: str
    name: str
    kind: str
    step: str  # how it was made, or empty
    state: str
    by: str = ""

    @property
    def title(self) -> str:
        """The step and the name, or the name alone."""
        head = self.step or self.kind or "input"
        return head if head == self.name else f"{head}: {self.name}"

    @property
    def detail(self) -> str:
        """Digest, and what is known."""
        return f"{self.digest} · {self.standing}"

    @property
    def digest(self) -> str:
        """The digest, short."""
        return self.key.partition(":")[2][:12] or "no digest"

    @property
    def standing(self) -> str:
        """What is known, as words."""
        return f"{_WORDS[self.state]} {self.by}".strip() if self.state == "signed" else _standing(self)


def _standing(box: Box) -> str:
    return f"{_WORDS[box.state]}: {box.by}" if box.by else _WORDS[box.state]


@dataclass(frozen=True, slots=True)
class Picture:
    """Boxes, the target first and each before what it was made of; arrows are (output key, input key, role)."""

    boxes: tuple[Box, ...]
    arrows: tuple[tuple[str, str, str], ...]

    def inputs(self, key: str) -> list[tuple[str, str]]:
        """Return (role, key) of what a box was made of."""
        return sorted((role, before) for output, before, role in self.arrows if output == key)


def picture_of(found: VerifiedLineage) -> Picture:
    """Return the picture of a lineage that was walked; gaps, if it has any, are boxes that say so."""
    reasons = {gap.digest: gap.reason for gap in found.gaps if gap.digest}
    boxes = [_box(found, node, reasons) for node in found.nodes]
    arrows = [(edge.output, edge.input, edge.role or "input") for edge in found.edges]
    names = {node.name: node.key for node in found.nodes}
    for gap in found.gaps:
        if not gap.digest:
            boxes.append(Box(f"{gap.used_by}/{gap.name}", gap.name, gap.role, "", "gap", gap.reason))
            arrows.append((names.get(gap.used_by, found.target), boxes[-1].key, gap.role))
    return Picture(tuple(boxes), tuple(sorted(arrows)))


def _box(found: VerifiedLineage, node: Node, reasons: Mapping[str, str]) -> Box:
    step = next((item.provenance.kind for item in node.made if item.provenance), "")
    if node.key in reasons:
        return Box(node.key, node.name, node.kind, step, "gap", reasons[node.key])
    if found.leaves.get(node.key) == "listed":
        return Box(node.key, node.name, node.kind, step, "listed")
    return Box(node.key, node.name, node.kind, step, "signed", ", ".join(map(short_signer, found.signers[node.key])))


def short_signer(name: str) -> str:
    """Return a fingerprint's first digits, or a name as it is."""
    return name[:12] if len(name) == 64 else name


def picture_of_steps(steps: Sequence[Step], model: str) -> Picture:
    """Return the picture of what a model itself tells; ``model`` is its digest (hex)."""
    boxes: dict[str, Box] = {}
    arrows = []
    outputs = outputs_of(steps, model)
    for step, output in reversed(list(zip(steps, outputs, strict=True))):
        key = f"blake3:{output}"
        boxes[key] = Box(key, "model", "model", step.kind, "told")
        for role, digest in sorted(step.inputs.items()):
            before = f"blake3:{digest}"
            boxes.setdefault(before, Box(before, role, "model" if role == "model" else role, "", "told"))
            arrows.append((key, before, role))
    return Picture(tuple(boxes.values()), tuple(arrows))


def tree(picture: Picture) -> list[str]:
    """Return the lines of a tree: the target first, what it was made of below it."""
    known = {box.key: box for box in picture.boxes}
    return list(_branch(picture, known, picture.boxes[0].key, "", "", set())) if picture.boxes else []


def _branch(
    picture: Picture, known: Mapping[str, Box], key: str, lead: str, below: str, seen: set[str]
) -> Iterator[str]:
    box = known[key]
    if key in seen:
        yield f"{lead}{box.title}  {box.digest} (above)"
        return
    seen.add(key)
    yield f"{lead}{box.title}  {box.detail}"
    inputs = picture.inputs(key)
    for number, (role, before) in enumerate(inputs):
        last = number == len(inputs) - 1
        lead_in = f"{below}{'└─' if last else '├─'} {role} ← "
        yield from _branch(picture, known, before, lead_in, below + ("   " if last else "│  "), seen)


def to_json(picture: Picture) -> dict[str, Any]:
    """Return nodes and edges as JSON."""
    nodes = [
        {"id": box.key, "name": box.name, "kind": box.kind, "step": box.step, "state": box.state, "by": box.by}
        for box in picture.boxes
    ]
    return {"nodes": nodes, "edges": [{"output": o, "input": i, "role": r} for o, i, r in picture.arrows]}


def to_dot(picture: Picture) -> str:
    """Return the picture in Graphviz's language."""
    lines = ["digraph lineage {", "  rankdir=TB; node [shape=box, fontname=sans];"]
    for box in picture.boxes:
        label = _quoted(f"{box.title}\n{box.detail}")
        lines.append(f"  {_quoted(box.key)} [label={label}];")
    for output, before, role in picture.arrows:
        lines.append(f"  {_quoted(before)} -> {_quoted(output)} [label={_quoted(role)}];")
    return "\n".join([*lines, "}", ""])


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
