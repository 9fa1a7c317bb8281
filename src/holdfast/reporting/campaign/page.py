"""Rendering the page of one campaign from its records, one per arm."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from holdfast.evidence.record import Record
from holdfast.reporting.campaign.arms import Arm, forest
from holdfast.reporting.campaign.heat import heat_map, vulnerability_against_cost
from holdfast.reporting.campaign.trace import trace_chart
from holdfast.reporting.charts import OUTCOMES, vulnerability_by_bit
from holdfast.reporting.html import template

_HEAT = (
    "Share of faults that changed the answer, ended in NaN or crashed, by where they struck (rows, in order of "
    "computation) and which bit (columns, most significant first). Empty cells met no fault: nothing is known of them."
)
_COST = (
    "Each dot is a place: how much of the computation it is (right), and how likely a fault anywhere begins there and "
    "hurts (up). What lies to the upper left is cheap to protect and worth it."
)
_ARMS = "Every outcome with its interval. All arms met the same faults on the same inputs."


def render_campaign(records: Sequence[Record], extra: Mapping[str, Any]) -> bytes:
    """Return one HTML page without any outside reference.

    Args:
        records: of kind ``fault-campaign``, the arm that the others are compared with first.
        extra: ``title``, ``created``, ``command``.
    """
    arms = [_arm(record) for record in records]
    page = template("campaign.html.j2").render(
        extra=extra,
        first=records[0],
        arms=arms,
        plan=records[0].facts.get("plan", []),
        sections=[(title, Markup(chart), caption) for title, chart, caption in _sections(records, arms)],  # noqa: S704
        records=records,
    )
    return page.encode()


def _arm(record: Record) -> Arm:
    return Arm(
        name=str(record.facts.get("arm", "plain")),
        measured=record.measured,
        against=record.facts.get("against", {}),
    )


def _sections(records: Sequence[Record], arms: Sequence[Arm]) -> Iterator[tuple[str, str, str]]:
    """Yield title, drawing and caption of everything that the records hold numbers for."""
    yield "What became of the faults", forest(arms, ("critical-or-due", *OUTCOMES)), _ARMS
    for record, arm in zip(records, arms, strict=True):
        behind = f", {arm.name}" if len(arms) > 1 else ""
        facts = record.facts
        if heat := facts.get("heat"):
            yield f"Where they hurt{behind}", heat_map(heat, facts.get("bit_fields")), _HEAT
        elif bits := facts.get("by_bit"):
            yield f"Which bits matter{behind}", vulnerability_by_bit(bits, facts.get("bit_fields")), ""
        if costs := facts.get("costs"):
            yield f"What to protect first{behind}", vulnerability_against_cost(costs), _COST
        for trace in facts.get("traces", ()):
            yield f"One fault, followed{behind}", trace_chart(trace["title"], trace["steps"]), trace["title"]
