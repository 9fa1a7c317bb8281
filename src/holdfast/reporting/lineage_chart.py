"""The lineage as a drawing: models in a column from first to last, what else went in to the left of what it made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from holdfast.reporting import svg
from holdfast.signing.lineage.picture import Box, Picture

_WIDTH, _HEIGHT, _GAP, _TOP = 300.0, 48.0, 26.0, 8.0
_LEFT, _RIGHT = 8.0, svg.WIDTH - _WIDTH - 60.0
_LETTERS = 42  # that fit into a box
_MAIN = ("model", "assessment", "")


@dataclass(frozen=True, slots=True)
class _Row:
    main: Box
    side: tuple[Box, ...]

    @property
    def height(self) -> float:
        return max(1, len(self.side)) * (_HEIGHT + _GAP)


def lineage_chart(picture: Picture) -> str:
    """Return the drawing as SVG; empty for an empty picture."""
    if not picture.boxes:
        return ""
    rows, places, y = _rows(picture), {}, _TOP
    for row in rows:
        places[row.main.key] = (_RIGHT, y)
        places |= {box.key: (_LEFT, y + number * (_HEIGHT + _GAP)) for number, box in enumerate(row.side)}
        y += row.height
    adjacent = {(after.main.key, before.main.key) for before, after in pairwise(rows)}
    arrows = [_arrow(places[b], places[o], (o, b) in adjacent) for o, b, _ in picture.arrows]
    boxes = [_drawn(box, *places[box.key]) for box in picture.boxes]
    summary = "; ".join(f"{box.title}: {box.standing}" for box in picture.boxes)
    return svg.figure("How the model came to be", summary, [_HEAD, *arrows, *boxes], height=y)


_HEAD = (
    '<defs><marker id="lineage-head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
    'orient="auto"><path d="M0,0 L8,4 L0,8 z" class="head"/></marker></defs>'
)


def _rows(picture: Picture) -> list[_Row]:
    """Return the models, what they were made of first, each with the other inputs that appear with it first."""
    main = [box for box in reversed(_ordered(picture)) if box.kind in _MAIN or box is picture.boxes[0]]
    others = {box.key: box for box in picture.boxes if box not in main}
    rows = []
    for box in main:
        side = [others.pop(key) for _, key in picture.inputs(box.key) if key in others]
        rows.append(_Row(box, tuple(side)))
    return _with_rest(rows, tuple(others.values()))


def _with_rest(rows: Sequence[_Row], rest: tuple[Box, ...]) -> list[_Row]:
    """Put what no model names directly, such as the sources of a dataset, beside the first one."""
    return [_Row(rows[0].main, (*rows[0].side, *rest)), *rows[1:]]


def _ordered(picture: Picture) -> list[Box]:
    """Return the boxes by how far they are from the target at most, so that each comes after all it was used for."""
    depth = {box.key: 0 for box in picture.boxes}
    for _ in picture.boxes:
        for output, before, _role in picture.arrows:
            depth[before] = max(depth[before], min(depth[output] + 1, len(depth)))
    return sorted(picture.boxes, key=lambda box: depth[box.key])


def _arrow(start: tuple[float, float], end: tuple[float, float], straight: bool) -> str:
    (x1, y1), (x2, y2) = start, end
    if straight:
        middle = x1 + _WIDTH / 2
        return _path(f"M{middle:.1f},{y1 + _HEIGHT:.1f} L{middle:.1f},{y2:.1f}")
    a, b = y1 + _HEIGHT / 2, y2 + _HEIGHT / 2
    begin = x1 + _WIDTH
    finish = x2 if x1 < x2 else x2 + _WIDTH
    bend = (begin + finish) / 2 if x1 < x2 else begin + 40
    return _path(f"M{begin:.1f},{a:.1f} C{bend:.1f},{a:.1f} {bend:.1f},{b:.1f} {finish:.1f},{b:.1f}")


def _path(shape: str) -> str:
    return f'<path d="{shape}" class="flow" marker-end="url(#lineage-head)"/>'


def _drawn(box: Box, x: float, y: float) -> str:
    tip = f"{box.title}, {box.key}, {box.standing}"
    parts = [svg.rect(x, y, _WIDTH, _HEIGHT, f"box b-{box.state}", tip)]
    parts.append(svg.text(x + 12, y + 20, _cut(box.title), kind="label"))
    parts.append(svg.text(x + 12, y + 37, _cut(box.detail)))
    return "".join(parts)


def _cut(text: str) -> str:
    return text if len(text) <= _LETTERS else f"{text[: _LETTERS - 1]}…"
