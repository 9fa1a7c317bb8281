"""Where faults hurt: layers against bits, and each layer's vulnerability against its cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from holdfast.execution.statistics import Proportion
from holdfast.reporting import svg
from holdfast.reporting.charts import shortened

Counts = Sequence[int]  # failures, trials
Heat = Mapping[str, Mapping[str, Counts]]  # site -> bit position -> counts

_LEFT, _ROW = 190.0, 17.0
_WIDE, _TALL = 150.0, 15.0  # of a label of twenty letters


def heat_map(table: Heat, fields: Mapping[str, str] | None = None) -> str:
    """Failure share of each site (rows, in order of computation) and bit (columns, most significant first).

    The darker a cell, the larger its share; a cell without trials is an empty frame: nothing is known of it.

    Args:
        table: site -> bit -> (failures, trials); a failure is CRITICAL or DUE.
        fields: bit -> meaning, shown in the tips.
    """
    bits = sorted({int(bit) for row in table.values() for bit in row}, reverse=True)
    width = (svg.WIDTH - _LEFT - svg.RIGHT) / max(1, len(bits))
    parts = [_column(bit, place, width) for place, bit in enumerate(bits) if width >= 26 or bit % 4 == 0]
    for number, (site, row) in enumerate(table.items()):
        top = 24 + _ROW * number
        parts.append(svg.text(_LEFT - 10, top + 13, shortened(site, 26), anchor="end", kind="label"))
        for place, bit in enumerate(bits):
            meaning = (fields or {}).get(str(bit), "")
            parts.append(_cell(site, bit, meaning, row.get(str(bit)), _LEFT + width * place, top, width))
    return svg.figure("Failures by layer and bit", _worst(table), parts, height=32 + _ROW * len(table))


def _column(bit: int, place: int, width: float) -> str:
    return svg.text(_LEFT + width * (place + 0.5), 16, str(bit), anchor="middle")


def _cell(site: str, bit: int, meaning: str, counts: Counts | None, x: float, top: float, width: float) -> str:
    if not counts or not counts[1]:
        return svg.rect(x, top, width - 1, _ROW - 1, "unseen", f"{site}, bit {bit} {meaning}: no trials")
    share = Proportion.wilson(counts[0], counts[1])
    tip = f"{site}, bit {bit} {meaning}: {share.value:.1%} [{share.low:.1%}, {share.high:.1%}] of {share.n}"
    return svg.rect(x, top, width - 1, _ROW - 1, "cell", tip, opacity=0.08 + 0.92 * share.value)


def _worst(table: Heat) -> str:
    """Say in words what the map shows: the cell that is surely the worst, by the low end of its interval."""
    cells = [
        (Proportion.wilson(counts[0], counts[1]).low, site, bit)
        for site, row in table.items()
        for bit, counts in row.items()
        if counts[1]
    ]
    low, site, bit = max(cells, default=(0.0, "", ""))
    return f"worst: {site}, bit {bit}, at least {low:.1%}" if low > 0 else "no cell is surely above zero"


def vulnerability_against_cost(sites: Mapping[str, Mapping[str, float]]) -> str:
    """How likely a fault begins at each site and hurts, against the share of the computation that the site is.

    Sites to the upper left are cheap to protect and worth it.

    Args:
        sites: site -> ``cost`` (share of all multiply-accumulates, 0..1) and ``share``, the chance that a fault
            anywhere begins here and ends critical or DUE, with ``low`` and ``high``.
    """
    right = max((item["cost"] for item in sites.values()), default=1.0)
    top = svg.nice_top(max((item["high"] for item in sites.values()), default=1.0))
    x = svg.linear(0, right * 1.05 or 1.0, svg.LEFT + 4, svg.WIDTH - svg.RIGHT - 90)
    y = svg.linear(0, top, svg.HEIGHT - svg.BOTTOM, svg.TOP)
    parts = svg.percent_axis(y, top)
    parts += [svg.text(x(right), svg.HEIGHT - svg.BOTTOM + 20, f"{right:.1%}", anchor="middle")]
    parts.append(svg.text(svg.LEFT, svg.HEIGHT - 6, "share of the multiply-accumulates", kind="axis"))
    named = sorted(sites, key=lambda name: sites[name]["low"] / max(sites[name]["cost"], 1e-6), reverse=True)[:5]
    taken: list[tuple[float, float]] = []
    for name, item in sites.items():
        parts += _point(name, item, x, y)
        if name in named:
            parts.append(_name(name, x(item["cost"]) + 7, y(item["share"]) + 4, taken))
    return svg.figure("Vulnerability against cost", f"first to protect: {', '.join(named)}", parts)


def _point(name: str, item: Mapping[str, float], x: svg.Scale, y: svg.Scale) -> list[str]:
    at = x(item["cost"])
    tip = (
        f"{name}: {item['share']:.3%} [{item['low']:.3%}, {item['high']:.3%}] of all faults begin here and hurt, "
        f"{item['cost']:.1%} of the cost"
    )
    return [
        svg.line(at, y(item["low"]), at, y(item["high"]), "whisker"),
        svg.circle(at, y(item["share"]), 4, "dot", tip),
    ]


def _name(name: str, left: float, base: float, taken: list[tuple[float, float]]) -> str:
    """Return the label of a point, above those that stand in its way, and note where it went."""
    while any(abs(left - x) < _WIDE and abs(base - y) < _TALL for x, y in taken):
        base -= _TALL
    taken.append((left, base))
    return svg.text(left, base, shortened(name, 20), kind="label")
