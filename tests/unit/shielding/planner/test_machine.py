"""Measuring a target with real sessions."""

from __future__ import annotations

from holdfast.shielding.planner import Machine, measure


def test_measured_rates_are_plausible() -> None:
    found = measure()
    assert Machine.from_json(found.to_json()) == found
    # a product per nanosecond is slow for a core that multiplies int8, a thousand per nanosecond out of reach
    assert all(1e7 < rate < 1e13 for rate in (found.trusted.conv2d, found.trusted.linear, found.worker.conv2d))
    assert 1e-6 < found.crossing < 1.0
    assert found.bandwidth > 1e5
