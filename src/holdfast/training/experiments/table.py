"""Measured errors beside published ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from holdfast.evidence.record import Measurement, Record
from holdfast.training.experiments.arms import robust_name
from holdfast.training.experiments.experiment import Experiment

_HEAD = ("arm", "p in %", "error after", "error before or after", "95 % interval", "published", "difference")


def comparison(record: Record) -> dict[str, dict[str, Any]]:
    """Return what is published for an arm beside what was measured, by the name of the measurement.

    Published robust errors were computed by the authors' code, which also counts an image that was wrong before the
    bit errors; they are held against our measurement of the same definition. ``difference`` is measured minus
    published; ``inside`` says whether the published value lies in our interval (over chips, or test images).
    """
    values = (record.facts.get("published") or {}).get("values", {})
    found = {}
    for name, value in values.items():
        own = record.measured[name.replace("robust-error@", "robust-error-or-clean@")]
        inside = own.low <= value <= own.high
        found[name] = {"published": value, "difference": round(own.value - value, 6), "inside": inside}
    return found


def rows(record: Record, rates: Sequence[float]) -> list[tuple[str, ...]]:
    """Return one row of text for the clean error and one for each rate; errors in percent."""
    beside = comparison(record)
    found = [_row("clean", record.measured["clean-error"], None, beside.get("clean-error"))]
    for rate in rates:
        name = robust_name(rate)
        after, either = record.measured[name], record.measured[robust_name(rate, or_clean=True)]
        found.append(_row(f"{100 * rate:g}", after, either, beside.get(name)))
    return [(record.subject.name if number == 0 else "", *row) for number, row in enumerate(found)]


def markdown(experiment: Experiment, records: Sequence[Record], diverged: Mapping[str, str]) -> str:
    """Return the results as a page: what was run, one table of errors in percent, and which arms did not train."""
    lines = [f"# {experiment.title or experiment.name}", "", *_notes(experiment, records), ""]
    lines += [_line(_HEAD), _line(("---", *["---:"] * (len(_HEAD) - 1)))]
    lines += [_line(row) for record in records for row in rows(record, experiment.rates)]
    lines += ["", *(f"{name} did not train: {reason}." for name, reason in diverged.items())] if diverged else []
    return "\n".join(lines) + "\n"


def _notes(experiment: Experiment, records: Sequence[Record]) -> list[str]:
    epochs, chips = experiment.schedule.epochs, experiment.chips
    notes = [f"Trained for {epochs} epochs; mean error over {chips} chips, in percent. {_WHY}"]
    if experiment.scale != "full":
        notes += ["", f"Run at scale **{experiment.scale}**: the published values are of the full one."]
    sources = sorted({record.facts["published"]["source"] for record in records if record.facts["published"]})
    return [*notes, *(["", f"Published: {'; '.join(sources)}."] if sources else [])]


_WHY = (
    "An image is wrong *after* the bit errors, or wrong *before or after* them; the published values count the second, "
    "so the interval (over chips, for clean errors over images) and the difference belong to it."
)


def _row(at: str, after: Measurement, either: Measurement | None, beside: Mapping[str, Any] | None) -> tuple[str, ...]:
    compared = after if either is None else either
    return (
        at,
        _percent(after.value),
        "" if either is None else _percent(either.value),
        f"{_percent(compared.low)} .. {_percent(compared.high)}",
        "" if beside is None else _percent(beside["published"]),
        "" if beside is None else f"{100 * beside['difference']:+.2f}",
    )


def _percent(share: float) -> str:
    return f"{100 * share:.2f}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
