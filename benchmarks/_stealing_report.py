"""The rows of ``model_stealing`` as lines for people: one per victim, placement and prior."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from holdfast.execution.statistics import MeanEstimate

Row = Mapping[str, Any]
_LEAD = "ahead of the black box"


def report(rows: Sequence[Row]) -> Iterator[str]:
    """Yield a line per arm: fidelity by budget with its interval, and the lead over the black box.

    One seed has Wilson's interval over test images, and the lead is paired over them. Several have Student's over
    seeds.
    """
    for (victim, placement, public), found in grouped(rows).items():
        cells = [cell(found, number) for number in range(len(found[0]["points"]))]
        prior = "public known" if public else "no prior"
        own = mean([row["victim accuracy"]["value"] for row in found])
        yield f"{victim} ({own}) | {placement} | {prior} | " + " | ".join(cells)


def grouped(rows: Sequence[Row]) -> dict[tuple[str, str, bool], list[Row]]:
    """Return the seeds of each arm."""
    groups: dict[tuple[str, str, bool], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["victim"], row["placement"], row["public"]), []).append(row)
    return groups


def cell(found: Sequence[Row], number: int) -> str:
    """Return one budget of one arm."""
    points = [row["points"][number] for row in found]
    text = f"{points[0]['budget']}: {figure([point['fidelity'] for point in points], 0.0)}"
    if all(_LEAD in point for point in points):
        text += f", ahead {figure([point[_LEAD] for point in points], -1.0)}"
    return text + f", accuracy {mean([point['accuracy']['value'] for point in points])}"


def figure(values: Sequence[Mapping[str, Any]], least: float) -> str:
    """Return a share with its interval: its own for one seed, over seeds for several."""
    if len(values) == 1:
        value, low, high = (float(values[0][key]) for key in ("value", "low", "high"))
    else:
        found = MeanEstimate.student_t([float(one["value"]) for one in values], least=least, most=1.0)
        value, low, high = found.value, found.low, found.high
    return f"{value:.1%} [{low:.1%}, {high:.1%}]"


def mean(values: Sequence[Any]) -> str:
    """Return a mean."""
    return f"{sum(map(float, values)) / len(values):.1%}"
