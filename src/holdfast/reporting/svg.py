"""A few lines of SVG: scales, axes and text, styled by the page's own CSS variables so charts follow dark mode."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from html import escape

WIDTH, HEIGHT = 720, 320
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 16, 44

_STEPS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.25, 0.5, 1.0)
Scale = Callable[[float], float]


def linear(low: float, high: float, start: float, end: float) -> Scale:
    """Return the map from [low, high] to pixels [start, end]."""
    span = (high - low) or 1.0
    return lambda value: start + (value - low) / span * (end - start)


def logarithmic(low: float, high: float, start: float, end: float) -> Scale:
    """Return the map from [low, high], both positive, to pixels, logarithmic."""
    inner = linear(math.log10(low), math.log10(high), start, end)
    return lambda value: inner(math.log10(value))


def text(x: float, y: float, content: str, *, anchor: str = "start", kind: str = "tick") -> str:
    """Return one escaped line of text."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}">{escape(content)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, kind: str = "grid") -> str:
    """Return a straight line."""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


def rect(
    x: float, y: float, width: float, height: float, kind: str, tip: str = "", *, opacity: float | None = None
) -> str:
    """Return a bar; ``tip`` is read out and shown on hover."""
    size = f'width="{max(width, 0):.1f}" height="{max(height, 0):.1f}"'
    shade = "" if opacity is None else f' opacity="{opacity:.3f}"'
    return f'<rect x="{x:.1f}" y="{y:.1f}" {size} class="{kind}"{shade}>{_tip(tip)}</rect>'


def circle(x: float, y: float, radius: float, kind: str, tip: str = "") -> str:
    """Return a dot; ``tip`` is read out and shown on hover."""
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" class="{kind}">{_tip(tip)}</circle>'


def _tip(text: str) -> str:
    return f"<title>{escape(text)}</title>" if text else ""


def polyline(points: Iterable[tuple[float, float]], kind: str) -> str:
    """Return an open line through points."""
    return f'<polyline points="{_points(points)}" class="{kind}"/>'


def band(upper: Sequence[tuple[float, float]], lower: Sequence[tuple[float, float]], kind: str) -> str:
    """Return the area between two lines."""
    return f'<polygon points="{_points([*upper, *reversed(lower)])}" class="{kind}"/>'


def _points(points: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def figure(title: str, description: str, parts: Iterable[str], *, height: float = HEIGHT) -> str:
    """Return a whole accessible SVG that scales with the page."""
    head = f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(title)}">'
    return f"{head}<title>{escape(title)}</title><desc>{escape(description)}</desc>{''.join(parts)}</svg>"


def percent_axis(y: Scale, top: float) -> list[str]:
    """Return horizontal grid lines with percent labels from zero to ``top``."""
    parts = []
    for share in ticks(top):
        parts.append(line(LEFT, y(share), WIDTH - RIGHT, y(share)))
        parts.append(text(LEFT - 8, y(share) + 4, f"{share * 100:.3g}%", anchor="end"))
    return parts


def ticks(top: float) -> list[float]:
    """Return round shares from zero to ``top``, six at most."""
    step = next(s for s in (0.0002, 0.0005, 0.001, 0.002, *_STEPS) if top / s <= 5.01)
    return [k * step for k in range(int(top / step + 1e-9) + 1)]


def nice_top(value: float) -> float:
    """Return a round share at or above ``value``, at most 1, for the end of an axis."""
    return next(
        (top for top in (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.25, 0.5, 0.75) if value <= top), 1.0
    )
