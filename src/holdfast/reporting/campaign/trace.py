"""How one fault travelled: the share of each place's output that differed, from the first place to the last."""

from __future__ import annotations

import math
from collections.abc import Sequence

from holdfast.reporting import svg
from holdfast.reporting.charts import shortened

Step = Sequence[object]  # place, changed share, largest relative difference or None where it is infinite


def trace_chart(title: str, steps: Sequence[Step]) -> str:
    """Draw the changed share (line) and mark the places whose output held a NaN or an infinity.

    Args:
        title: what failed, as the reader is told.
        steps: of every place in order of computation.
    """
    x = svg.linear(0, max(1, len(steps) - 1), svg.LEFT + 8, svg.WIDTH - svg.RIGHT - 8)
    y = svg.linear(0, 1, svg.HEIGHT - svg.BOTTOM, svg.TOP)
    shares = [float(str(step[1])) for step in steps]
    points = [(x(number), y(share)) for number, share in enumerate(shares)]
    parts = [*svg.percent_axis(y, 1.0), svg.polyline(points, "path")]
    for number, (step, share) in enumerate(zip(steps, shares, strict=True)):
        if share:
            parts.append(svg.circle(x(number), y(share), 3.5, _kind(step), _tip(step, share)))
    first = next((number for number, share in enumerate(shares) if share), 0)
    parts.append(svg.text(x(first), svg.HEIGHT - svg.BOTTOM + 18, shortened(str(steps[first][0]), 30), kind="label"))
    parts.append(svg.text(svg.LEFT, svg.HEIGHT - 6, "places in order of computation", kind="axis"))
    return svg.figure(title, _ends(steps, shares), parts)


def _kind(step: Step) -> str:
    return "o-due" if step[2] is None else "dot"


def _tip(step: Step, share: float) -> str:
    size = "NaN or infinity" if step[2] is None else f"up to {float(str(step[2])):.3g} of the largest golden value"
    return f"{step[0]}: {share:.2%} of the elements differ, {size}"


def _ends(steps: Sequence[Step], shares: Sequence[float]) -> str:
    last = max((number for number, share in enumerate(shares) if share), default=-1)
    if last < 0:
        return "nothing differed anywhere"
    if last == len(steps) - 1:
        return f"reached the output, {shares[-1]:.1%} of which differ"
    return f"vanished before {steps[last + 1][0]}"


def finite_or_none(value: float) -> float | None:
    """Return what JSON can hold."""
    return value if math.isfinite(value) else None
