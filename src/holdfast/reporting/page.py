"""Rendering the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from holdfast.evidence.lineage import Step
from holdfast.evidence.record import Record
from holdfast.reporting.charts import figures
from holdfast.reporting.html import template
from holdfast.reporting.lineage_chart import lineage_chart
from holdfast.reporting.verdicts import Verdict, verdicts
from holdfast.signing.lineage.picture import picture_of_steps

CAPTIONS = {
    "robust_error": "Robust error: test error with that share of stored weight bits flipped, mean over simulated "
    "chips; the band is the 95 % interval of the mean. All arms meet the same chips.",
    "outcomes": "What became of single bit flips in each layer's output: plain above, hardened below. Both met the "
    "same faults on the same inputs.",
    "bits": "Share of flips that change the answer or end in NaN, by bit position, with 95 % intervals.",
    "platform": "How many output words of a fresh run are bit-equal with the reference of each platform.",
    "shield": "One shielded inference, by phase.",
    "lineage": "What the model itself tells of its history, from first to last. Nothing here is verified: holdfast "
    "lineage verify does that, over the signed statements beside the model.",
}
TITLES = {
    "robust_error": "Bit errors in stored weights",
    "outcomes": "Faults in activations, layer by layer",
    "bits": "Which bits matter",
    "platform": "Which platform computed this",
    "shield": "The cost of not trusting the worker",
    "lineage": "How the model came to be",
}


def render(records: Sequence[Record], extra: Mapping[str, Any]) -> bytes:
    """Return one HTML page without any outside reference.

    Args:
        records: of one assessment, at most one of a kind; an ``artifact`` record is required.
        extra: ``title``, ``signer`` (``fingerprint``, ``ephemeral``), ``created`` and ``command``.
    """
    by_kind = {record.kind: record for record in records}
    drawn = figures({kind: record.facts for kind, record in by_kind.items()}) | _history(by_kind["artifact"])
    # the charts escape what they are given, so they may pass as markup
    sections = [(TITLES[name], Markup(chart), _caption(name, by_kind)) for name, chart in drawn.items()]  # noqa: S704
    page = template("report.html.j2").render(
        extra=extra,
        artifact=by_kind["artifact"],
        verdicts=verdicts(by_kind, extra["signer"]),
        sections=sections,
        records=records,
        pairing=by_kind["fault-campaign-hardened"].facts if "fault-campaign-hardened" in by_kind else {},
    )
    return page.encode()


def _history(record: Record) -> dict[str, str]:
    """Return the drawing of the steps that the model tells, if it tells any."""
    steps = [Step.from_json(item) for item in record.lineage]
    chart = lineage_chart(picture_of_steps(steps, record.subject.digest["blake3"]))
    return {"lineage": chart} if chart else {}


def _caption(name: str, by_kind: Mapping[str, Record]) -> str:
    """Return the caption of a chart; bit errors end with what is guaranteed beyond these chips and images."""
    if name != "robust_error":
        return CAPTIONS[name]
    return " ".join([CAPTIONS[name], *by_kind["bit-errors"].facts.get("guarantees", [])])


__all__ = ["Verdict", "render"]
