"""Charts are well-formed, show the numbers they are given, and escape what they quote."""

from __future__ import annotations

from itertools import pairwise
from xml.etree import ElementTree

import pytest

from holdfast.reporting import charts, svg

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = '<script>alert("x")</script>&\'"'


def parse(text: str) -> ElementTree.Element:
    return ElementTree.fromstring(text)


def point(rate: float, mean: float) -> dict[str, float]:
    return {"rate": rate, "mean": mean, "low": max(0, mean - 0.05), "high": min(1, mean + 0.05)}


def test_robust_error_places_points_by_value() -> None:
    root = parse(
        charts.robust_error({"a": [point(0.001, 0.1), point(0.01, 0.5)], HOSTILE: [point(0.001, 0), point(0.01, 1)]})
    )
    dots = [(float(c.get("cx")), float(c.get("cy"))) for c in root.iter("circle")]
    assert len(dots) == 4
    assert dots[0][0] < dots[1][0]
    assert dots[0][1] > dots[1][1] > dots[3][1]
    assert [t.text for t in root.iter("text") if t.text == HOSTILE]


def test_labels_of_close_curves_do_not_overlap() -> None:
    curves = {name: [point(0.001, 0.1), point(0.01, 0.3)] for name in "abcd"}
    root = parse(charts.robust_error(curves))
    places = sorted(float(t.get("y")) for t in root.iter("text") if t.text in curves)
    assert all(after - before >= 14 for before, after in pairwise(places))


def test_stacked_outcomes_fill_the_row() -> None:
    before = {"activations:fc": {"masked": 3, "sdc": 1, "critical": 4, "detected": 0, "due": 2}}
    root = parse(charts.outcomes_by_site(before, before))
    bars = [r for r in root.iter("rect") if r.find("title") is not None]
    assert len(bars) == 8
    total = sum(float(r.get("width")) for r in bars) / 2
    assert total == pytest.approx(svg.WIDTH - svg.RIGHT - 170, abs=0.5)
    assert any("critical 4 of 10" in r.find("title").text for r in bars)


def test_bit_bars_carry_value_and_interval() -> None:
    root = parse(charts.vulnerability_by_bit({"30": [9, 10], "0": [0, 10]}, {"30": "exponent", "0": "mantissa"}))
    tips = [t.text for t in root.iter("title")]
    assert any(tip.startswith("bit 30 exponent: 90.0%") for tip in tips)
    heights = {r.get("class"): float(r.get("height")) for r in root.iter("rect")}
    assert heights["bar f-exponent"] > heights["bar f-mantissa"] == 0


def test_axis_never_leaves_the_picture() -> None:
    for top in (0.05, 0.1, 0.2, 0.25, 0.5, 0.75, 1.0):
        y = svg.linear(0, top, svg.HEIGHT - svg.BOTTOM, svg.TOP)
        lines = [parse(part) for part in svg.percent_axis(y, top) if part.startswith("<line")]
        assert all(float(item.get("y1")) >= svg.TOP - 0.5 for item in lines)
        assert len(lines) >= 2
