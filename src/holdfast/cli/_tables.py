"""Tables of campaigns over chips for the terminal, made from nothing but their record."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from holdfast.cli._common import shorten

if TYPE_CHECKING:
    from holdfast.evidence.record import Measurement, Record


_ENOUGH = 50  # equal chips say little before; the interval that the record gives them is then 6 points wide at most


def robust_error_table(record: Record) -> Iterator[str]:
    """Yield the lines of a ``robust-error`` record: two rows per rate, then comparisons and guarantees."""
    measured, points = record.measured, record.facts["points"]
    yield from _warnings(record)
    yield f"clean error {_interval(measured['error'])}, {measured['error'].n} images"
    head = ("", "chips", "flips", "mean", _level(record), "any time", "test set", "or clean")
    yield from _aligned([head, *(_row(measured, label, facts) for label, facts in points.items())])
    names = ("chip by chip", "± std", "median", "q90", "CVaR 10 %", "worst (chip)", "NaN/Inf")
    yield from _aligned([names, *(_spread(measured, label, facts) for label, facts in points.items())])
    for label, facts in points.items():
        yield from _sameness(label, facts)
    for label, facts in points.items():
        if "pairs" in facts:
            yield from _pairs(measured[f"difference@{label}"], label, facts)
    yield from _guarantees({label: found for label, facts in points.items() if (found := facts["guarantee"])})


def _warnings(record: Record) -> Iterator[str]:
    yield from (f"warning: {text}" for text in record.facts.get("warnings", ()))


def _sameness(label: str, facts: dict[str, Any]) -> Iterator[str]:
    if not facts["random"]:
        yield f"{_name(label)}: this law has no randomness: all chips are one, and only other images can differ"
    elif _equal(facts) and len(facts["chips"]) > 1:
        yield f"{_name(label)}: all {len(facts['chips'])} chips gave the same error, which says little about others"


def _guarantees(found: dict[str, Any]) -> Iterator[str]:
    """Yield every bound that says something, and one line for those that do not."""
    if found:
        yield f"guarantees, which fail with probability {next(iter(found.values()))['delta']:g}:"
    for label, facts in found.items():
        empty = [text for text in facts["sentences"] if text.endswith(": vacuous")]
        yield from (f"  {_name(label)}  {text}" for text in facts["sentences"] if text not in empty)
        if empty:
            names = ", ".join(text.partition(":")[0] for text in empty)
            yield f"  {_name(label)}  {names}: vacuous, guessing meets {'it' if len(empty) == 1 else 'them'}"


def sensitivity_table(record: Record) -> Iterator[str]:
    """Yield the lines of a ``bit-error-sensitivity`` record, the most sensitive group first."""
    yield from _warnings(record)
    yield f"clean error {_interval(record.measured['error'])}; increase of the error when only one group can fail"
    groups = record.facts["groups"]
    increases = {part["group"]: record.measured[f"increase[{part['group']}]"] for part in groups}
    head = (record.facts["by"], "bits", "flips", "increase", _level(record), "per flip", "worst", "NaN/Inf")
    rows = [
        (
            part["group"],
            f"{part['bits']:,}",
            _mean_flips(part["flips"]),
            _points(increases[part["group"]].value),
            _over_chips(increases[part["group"]], part),
            "-" if part["per_flip"] is None else _points(part["per_flip"]),
            _share(part["worst"]["error"]),
            str(part["nonfinite_chips"]),
        )
        for part in sorted(groups, key=lambda part: -increases[part["group"]].value)
    ]
    yield from _aligned([head, *rows])


def language_table(record: Record) -> Iterator[str]:
    """Yield the lines of a ``language-bit-errors`` record: one row per rate, or per group of bits."""
    measured, points, how = record.measured, record.facts["points"], record.procedure
    clean = measured["perplexity"]
    yield f"clean perplexity {clean.value:.2f} [{clean.low:.2f}, {clean.high:.2f}] over {clean.n} windows of text"
    yield f"collapsed: not finite, above {how['collapse']:g} times the clean perplexity, or no better than guessing"
    head = (record.facts["by"] or "", "chips", "flips", "collapsed", _level(record), "median ratio", "mean",
            "mean, standing", "predictions moved", "texts changed", "first at", "edits", "NaN/Inf")  # fmt: skip
    yield from _aligned([head, *(_language_row(measured, label, facts) for label, facts in points.items())])


def _language_row(measured: Any, label: str, facts: dict[str, Any]) -> tuple[str, ...]:
    collapse, first = measured[f"collapse-rate@{label}"], facts["first_divergence"]
    return (
        shorten(label, 40),
        str(facts["chips"]),
        _mean_flips(facts["flips"]),
        _share(collapse.value),
        _span(collapse),
        _ratio(facts["median_ratio"]),
        _ratio(facts["mean_ratio"]),
        _ratio(facts["mean_ratio_standing"], missing="-"),
        _share(measured[f"predictions-moved@{label}"].value),
        _share(measured[f"texts-changed@{label}"].value),
        "-" if first is None else f"{first:g}",
        _share(measured[f"edit-distance@{label}"].value),
        str(facts["nonfinite_chips"]),
    )


def _ratio(value: float | None, *, missing: str = "inf") -> str:
    return missing if value is None else f"{value:,.3f}" if value < 1000 else f"{value:.2e}"


def _row(measured: Any, label: str, facts: dict[str, Any]) -> tuple[str, ...]:
    mean = measured[f"robust-error@{label}"]
    return (
        _name(label),
        str(mean.n),
        _mean_flips(facts["flips"]),
        _share(mean.value),
        _over_chips(mean, facts),
        _span(measured[f"robust-error-anytime@{label}"]) if facts["random"] else "n/a",
        _span(measured[f"robust-error-test-set@{label}"]),
        _share(measured[f"robust-error-or-clean@{label}"].value),
    )


def _spread(measured: Any, label: str, facts: dict[str, Any]) -> tuple[str, ...]:
    worst = facts["worst"]
    return (
        _name(label),
        "-" if facts["std"] is None else _share(facts["std"]),
        _share(measured[f"robust-error-q50@{label}"].value),
        _share(measured[f"robust-error-q90@{label}"].value),
        _share(facts["cvar"]["error"]),
        f"{_share(worst['error'])} ({worst['chip']})",
        str(facts["nonfinite_chips"]),
    )


def _equal(facts: dict[str, Any]) -> bool:
    return len(set(facts["chips"])) == 1


def _over_chips(item: Measurement, facts: dict[str, Any]) -> str:
    """Return the interval over chips, or n/a where they do not vary and are few."""
    return "n/a" if _equal(facts) and item.n < _ENOUGH else _span(item)


def _pairs(difference: Measurement, label: str, facts: dict[str, Any]) -> Iterator[str]:
    found, both = facts["pairs"], zip(facts["chips"], facts["other"]["chips"], strict=False)
    equal = len({round(b - a, 12) for a, b in both}) == 1
    low, high = found["over_images"]
    yield (
        f"{_name(label)}: the other model's error minus this one's, on the same chips: {_points(difference.value)} "
        f"points {'n/a' if equal and difference.n < _ENOUGH else _span(difference)}"
    )
    if not facts["random"]:
        over = "n/a" if low is None or high is None else f"[{100 * low:.2f}, {100 * high:.2f}]"
        yield f"  over images {over}"
        return
    yield f"  lower on {found['second_better']}, higher on {found['first_better']} of {difference.n} chips"
    t_test = "n/a" if found["p_t_test"] is None else f"{found['p_t_test']:.2g}"
    yield f"  p = {t_test} (t), {found['p_wilcoxon']:.2g} (Wilcoxon), {found['p_sign']:.2g} (sign)"


def _name(label: str) -> str:
    return shorten(label, 24)


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *rest in rows:
        cells = [f"{cell:>{width}}" for cell, width in zip(rest, widths[1:], strict=True)]
        yield "  ".join([f"{first:<{widths[0]}}", *cells]).rstrip()


def _level(record: Record) -> str:
    return f"{100 * record.procedure['confidence']:g} %"


def _share(value: float) -> str:
    return f"{value:.2%}"


def _points(value: float) -> str:
    return f"{round(100 * value, 2) + 0.0:+.2f}"  # no minus before a zero


def _span(item: Measurement) -> str:
    return f"[{100 * item.low:.2f}, {100 * item.high:.2f}]"


def _interval(item: Measurement) -> str:
    return f"{_share(item.value)} {_span(item)}"


def _mean_flips(flips: Sequence[int | None]) -> str:
    counted = [count for count in flips if count is not None]
    return f"{sum(counted) / len(counted):,.1f}" if counted else "-"
