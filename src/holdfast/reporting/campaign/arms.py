"""Arm against arm: every outcome with its interval, and what the pairs say of the difference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from holdfast.evidence.record import Measurement
from holdfast.reporting import svg

_LEFT, _ROW = 190.0, 18.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One model of a campaign.

    Attributes:
        name: as the legend says it.
        measured: outcome -> its share with an interval.
        against: what pairs of trials say against the first arm: ``difference`` (``value``, ``low``, ``high``) and
            ``p_value``; empty for the first arm itself.
    """

    name: str
    measured: Mapping[str, Measurement]
    against: Mapping[str, float] = field(default_factory=dict)


def forest(arms: Sequence[Arm], outcomes: Sequence[str]) -> str:
    """Shares of each outcome, one line with its interval per arm, on one scale.

    Args:
        arms: the first one is what the others are compared with.
        outcomes: measures to draw, those that no arm has are left out.
    """
    shown = [name for name in outcomes if any(name in arm.measured for arm in arms)]
    top = svg.nice_top(max(arm.measured[name].high for arm in arms for name in shown if name in arm.measured))
    x = svg.linear(0, top, _LEFT, svg.WIDTH - 130)
    height = 20 + len(shown) * (_ROW * len(arms) + 14)
    parts = [svg.line(x(share), 4, x(share), height) for share in svg.ticks(top)]
    parts += [svg.text(x(share), height + 14, f"{share * 100:.3g}%", anchor="middle") for share in svg.ticks(top)]
    for number, name in enumerate(shown):
        parts += _group(name, arms, x, 14 + number * (_ROW * len(arms) + 14))
    return svg.figure("Outcomes, arm against arm", _said(arms), parts, height=height + 22)


def _group(name: str, arms: Sequence[Arm], x: svg.Scale, top: float) -> list[str]:
    parts = [svg.text(_LEFT - 10, top + 13, name, anchor="end", kind="label")]
    for number, arm in enumerate(arms):
        if (item := arm.measured.get(name)) is None:
            continue
        middle = top + _ROW * number + 9
        tip = f"{arm.name}, {name}: {item.value:.3%} [{item.low:.3%}, {item.high:.3%}], n = {item.n}"
        parts.append(svg.line(x(item.low), middle, x(item.high), middle, f"curve arm{number % 4}"))
        parts.append(svg.circle(x(item.value), middle, 4, f"dot arm{number % 4}", tip))
        label = f"{item.value:.2%} {arm.name}"
        parts.append(svg.text(max(x(item.high), x(item.value)) + 8, middle + 4, label, kind=f"label arm{number % 4}"))
    return parts


def _said(arms: Sequence[Arm]) -> str:
    found = [
        f"{arm.name} against {arms[0].name}: {arm.against['value']:+.3%} "
        f"[{arm.against['low']:+.3%}, {arm.against['high']:+.3%}], p = {arm.against['p_value']:.2g}"
        for arm in arms[1:]
        if arm.against
    ]
    return "; ".join(found) or f"{arms[0].name} alone"
