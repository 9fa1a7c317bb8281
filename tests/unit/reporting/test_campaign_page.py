"""The page of a campaign shows its records' numbers, escaped, and nothing it does not know."""

from __future__ import annotations

import re
from typing import Any

import pytest

from holdfast.evidence.record import Measurement, Record, Subject
from holdfast.reporting.campaign import Arm, forest, heat_map, render_campaign, trace_chart, vulnerability_against_cost

EXTRA = {"title": "resnet <20>", "created": "2026-11-21", "command": "holdfast campaign resnet -o run"}


def _share(value: float, n: int = 1000) -> Measurement:
    return Measurement(value, max(0.0, value - 0.01), min(1.0, value + 0.01), n, "proportion")


def _record(**facts: Any) -> Record:
    return Record(
        kind="fault-campaign",
        subject=Subject("resnet", {"blake3": "ab" * 32}),
        procedure={"type": "fault-campaign", "version": 1, "fault": "bit-flip", "at": "activations", "trials": 1000},
        measured={"critical-or-due": _share(0.0312), "masked": _share(0.4), "critical": _share(0.03), "due": _share(0)},
        facts=facts,
        seed=7,
    )


def test_every_cell_tells_its_counts_and_its_interval() -> None:
    chart = heat_map({"weights:a": {"30": [9, 10], "0": [0, 10]}, "weights:b": {"30": [0, 0]}}, {"30": "exponent"})
    assert "weights:a, bit 30 exponent: 90.0% [59.6%, 98.2%] of 10" in chart
    assert "weights:b, bit 30 exponent: no trials" in chart
    assert chart.count('class="unseen"') == 2  # b at bit 30 had no trial, b at bit 0 was never drawn
    assert "worst: weights:a, bit 30, at least 59.6%" in chart


def test_a_larger_share_is_darker() -> None:
    chart = heat_map({"a": {"2": [10, 10], "1": [5, 10], "0": [0, 10]}})
    shades = [float(shade) for shade in re.findall(r'class="cell" opacity="([\d.]+)"', chart)]
    assert shades == sorted(shades, reverse=True)
    assert shades[0] == 1.0


def test_a_map_without_failures_claims_none() -> None:
    assert "no cell is surely above zero" in heat_map({"a": {"0": [0, 10]}})


def test_the_page_holds_the_numbers_of_all_arms() -> None:
    plain = _record(heat={"weights:a": {"30": [9, 10]}}, plan=["Every bit counts once."])
    against = {"value": -0.03, "low": -0.04, "high": -0.02, "p_value": 1e-9}
    page = render_campaign([plain, _record(arm="range guards", against=against)], EXTRA).decode()
    for expected in ("3.12 %", "Every bit counts once.", "range guards", "-3.00 points [-4.00, -2.00]", "p = 1e-09"):
        assert expected in page
    assert "resnet &lt;20&gt;" in page
    assert "http" not in page.replace("http://www.w3.org", "")  # nothing is loaded from elsewhere


def test_the_forest_draws_every_arm_and_says_the_difference() -> None:
    other = Arm(
        name="b",
        measured={"critical": _share(0.01)},
        against={"value": -0.02, "low": -0.03, "high": -0.01, "p_value": 0.01},
    )
    chart = forest([Arm(name="a", measured={"critical": _share(0.03)}), other], ("critical", "due"))
    assert chart.count("<circle") == 2
    assert "b against a: -2.000% [-3.000%, -1.000%], p = 0.01" in chart


def test_the_trace_says_where_a_fault_came_out_or_ended() -> None:
    masked = trace_chart("t", [["conv", 0.1, 0.5], ["relu", 0.0, 0.0], ["output", 0.0, 0.0]])
    assert "vanished before relu" in masked
    through = trace_chart("t", [["conv", 0.1, None], ["output", 1.0, 2.0]])
    assert "reached the output, 100.0% of which differ" in through
    assert "NaN or infinity" in through


@pytest.mark.parametrize("count", [1, 7])
def test_the_places_that_pay_are_named(count: int) -> None:
    sites = {f"s{n}": {"cost": 0.1, "share": 0.1 * n, "low": 0.09 * n, "high": 0.11 * n} for n in range(count)}
    chart = vulnerability_against_cost(sites)
    assert chart.count("<circle") == count
    assert f"first to protect: s{count - 1}" in chart


@pytest.mark.parametrize(("share", "labels"), [(0.6, ["0", "20", "40", "60"]), (0.015, ["0", "0.5", "1", "1.5", "2"])])
def test_the_axis_of_the_forest_has_round_numbers(share: float, labels: list[str]) -> None:
    measured = {"sdc": Measurement(share, share, share, 100, "proportion")}
    chart = forest([Arm(name="a", measured=measured)], ("sdc",))
    assert re.findall(r">([\d.]+)%<", chart) == labels
