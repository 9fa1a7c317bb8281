"""The charts of the report, each a function from numbers to SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from holdfast.execution.compare import Outcome
from holdfast.execution.statistics import Proportion
from holdfast.reporting import svg

OUTCOMES = tuple(outcome.value for outcome in Outcome)


def robust_error(curves: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Robust error against bit-error rate (log scale), one line with its interval band per arm.

    Args:
        curves: arm -> points with ``rate``, ``mean``, ``low``, ``high`` (shares).
    """
    points = [point for curve in curves.values() for point in curve]
    rates = sorted({point["rate"] for point in points})
    top = svg.nice_top(max(point["high"] for point in points))
    x = svg.logarithmic(rates[0], rates[-1] * 1.0001, svg.LEFT + 10, svg.WIDTH - svg.RIGHT - 135)
    y = svg.linear(0, top, svg.HEIGHT - svg.BOTTOM, svg.TOP)
    parts = svg.percent_axis(y, top)
    parts += [svg.text(x(rate), svg.HEIGHT - svg.BOTTOM + 20, f"{rate * 100:g}%", anchor="middle") for rate in rates]
    parts.append(svg.text(x(rates[0]), svg.HEIGHT - 6, "share of stored bits that flip", kind="axis"))
    labels = _spread([y(curve[-1]["mean"]) for curve in curves.values()], 15)
    for number, (arm, curve) in enumerate(curves.items()):
        parts += _curve(number, arm, curve, x, y, labels[number])
    summary = "; ".join(f"{arm}: {curve[-1]['mean']:.1%} at {curve[-1]['rate']:g}" for arm, curve in curves.items())
    return svg.figure("Robust error against bit-error rate", summary, parts)


def _curve(
    number: int, arm: str, curve: Sequence[Mapping[str, float]], x: svg.Scale, y: svg.Scale, at: float
) -> list[str]:
    upper = [(x(p["rate"]), y(min(1.0, p["high"]))) for p in curve]
    lower = [(x(p["rate"]), y(max(0.0, p["low"]))) for p in curve]
    middle = [(x(p["rate"]), y(p["mean"])) for p in curve]
    dots = [f'<circle cx="{cx:.1f}" cy="{cy:.1f}" r="3.5" class="dot arm{number}"/>' for cx, cy in middle]
    label = svg.text(middle[-1][0] + 10, at + 4, arm, kind=f"label arm{number}")
    return [svg.band(upper, lower, f"band arm{number}"), svg.polyline(middle, f"curve arm{number}"), *dots, label]


def _spread(places: list[float], gap: float) -> list[float]:
    """Move labels apart so that none overlap, keeping their order."""
    order = sorted(range(len(places)), key=places.__getitem__)
    result = list(places)
    for before, after in pairwise(order):
        result[after] = max(result[after], result[before] + gap)
    return result


def outcomes_by_site(before: Mapping[str, Mapping[str, int]], after: Mapping[str, Mapping[str, int]]) -> str:
    """Outcome shares per layer as stacked bars, plain above hardened.

    Args:
        before: site -> outcome -> trials, of the plain model.
        after: the same of the hardened one.
    """
    left, row, gap = 170.0, 13.0, 34.0
    parts = _legend(left)
    height = 34 + gap * len(before)
    x = svg.linear(0, 1, left, svg.WIDTH - svg.RIGHT)
    for number, site in enumerate(before):
        top = 30 + gap * number
        parts.append(svg.text(left - 10, top + 18, shortened(site), anchor="end", kind="label"))
        for place, (arm, table) in enumerate((("plain", before), ("hardened", after))):
            parts += _stack(f"{site}, {arm}", table.get(site, {}), x, top + place * (row + 1), row)
    worst = max(before, key=lambda site: _bad(before[site]))
    return svg.figure(
        "Outcomes per layer before and after hardening", f"most vulnerable: {worst}", parts, height=height
    )


def _legend(left: float) -> list[str]:
    parts, x = [], left
    for outcome in OUTCOMES:
        parts += [svg.rect(x, 4, 11, 11, f"o-{outcome}"), svg.text(x + 16, 14, outcome, kind="label")]
        x += 34 + 8 * len(outcome)
    return parts


def _stack(name: str, counts: Mapping[str, int], x: svg.Scale, top: float, height: float) -> list[str]:
    total, start, parts = sum(counts.values()), 0, []
    for outcome in OUTCOMES:
        count = counts.get(outcome, 0)
        if count:
            tip = f"{name}: {outcome} {count} of {total}"
            width = x((start + count) / total) - x(start / total)
            parts.append(svg.rect(x(start / total), top, width, height, f"o-{outcome}", tip))
            start += count
    return parts


def _bad(counts: Mapping[str, int]) -> float:
    return (counts.get("critical", 0) + counts.get("due", 0)) / max(1, sum(counts.values()))


def shortened(site: str, limit: int = 22) -> str:
    """Return the end of a site's name, at most ``limit`` characters of it."""
    name = site.partition(":")[2] or site
    return name if len(name) <= limit else "…" + name[-(limit - 1) :]


def vulnerability_by_bit(table: Mapping[str, Sequence[int]], fields: Mapping[str, str] | None = None) -> str:
    """Share of critical and DUE trials per bit position, with Wilson whiskers; most significant bit on the left.

    Args:
        table: bit -> (failures, trials).
        fields: bit -> meaning, shown in the tips.
    """
    shares = {int(bit): Proportion.wilson(*counts) for bit, counts in table.items()}
    order = sorted(shares, reverse=True)
    top = svg.nice_top(max(share.high for share in shares.values()))
    step = (svg.WIDTH - svg.LEFT - svg.RIGHT) / len(order)
    y = svg.linear(0, top, svg.HEIGHT - svg.BOTTOM, svg.TOP)
    parts = svg.percent_axis(y, top)
    for place, bit in enumerate(order):
        parts += _bit(bit, shares[bit], svg.LEFT + step * place, step, y, (fields or {}).get(str(bit), ""))
    parts.append(svg.text(svg.LEFT, svg.HEIGHT - 6, "bit position, most significant first", kind="axis"))
    worst = max(order, key=lambda bit: shares[bit].value)
    return svg.figure("Vulnerability by bit position", f"worst: bit {worst}, {shares[worst].value:.1%}", parts)


def _bit(bit: int, share: Proportion, x: float, step: float, y: svg.Scale, meaning: str) -> list[str]:
    tip = f"bit {bit} {meaning}: {share.value:.1%} [{share.low:.1%}, {share.high:.1%}] of {share.n}"
    middle = x + step / 2
    parts = [
        svg.rect(x + step * 0.15, y(share.value), step * 0.7, y(0) - y(share.value), f"bar f-{meaning or 'bit'}", tip)
    ]
    parts.append(svg.line(middle, y(share.low), middle, y(share.high), "whisker"))
    if bit % (4 if step < 24 else 1) == 0 or step >= 24:
        parts.append(svg.text(middle, svg.HEIGHT - svg.BOTTOM + 18, str(bit), anchor="middle"))
    return parts


def bars(title: str, rows: Sequence[tuple[str, float, str]], *, kind: str = "bar") -> str:
    """Horizontal bars with their value beside them: (label, length, text) each."""
    left, row = 190.0, 26.0
    longest = max((length for _, length, _ in rows), default=1.0) or 1.0
    x = svg.linear(0, longest, left, svg.WIDTH - 150)
    parts = []
    for number, (label, length, value) in enumerate(rows):
        top = 6 + row * number
        parts.append(svg.text(left - 10, top + 14, shortened(label, 26), anchor="end", kind="label"))
        parts.append(svg.rect(left, top + 2, max(1.0, x(length) - left), row - 9, kind, f"{label}: {value}"))
        parts.append(svg.text(max(left + 1, x(length)) + 8, top + 14, value, kind="label"))
    return svg.figure(
        title, "; ".join(f"{label} {value}" for label, _, value in rows), parts, height=12 + row * len(rows)
    )


def figures(records: Mapping[str, Any]) -> dict[str, str]:
    """Return the charts for which the records hold numbers, by name. ``records`` maps kind -> facts."""
    found = {}
    if curves := records.get("bit-errors", {}).get("curves"):
        found["robust_error"] = robust_error(curves)
    plain, hardened = records.get("fault-campaign", {}), records.get("fault-campaign-hardened", {})
    if plain.get("by_site"):
        found["outcomes"] = outcomes_by_site(plain["by_site"], hardened.get("by_site", {}))
    if plain.get("by_bit"):
        found["bits"] = vulnerability_by_bit(plain["by_bit"], plain.get("bit_fields"))
    if candidates := records.get("platform", {}).get("candidates"):
        rows = [(c["label"], c["equal_fraction"], f"{c['equal_fraction']:.1%} equal") for c in candidates]
        found["platform"] = bars("Words bit-equal with each known platform", rows)
    if timings := records.get("shield", {}).get("timings"):
        rows = [(phase, seconds, f"{seconds * 1e3:.1f} ms") for phase, seconds in timings.items()]
        found["shield"] = bars("Where a shielded inference spends its time", rows)
    return found
