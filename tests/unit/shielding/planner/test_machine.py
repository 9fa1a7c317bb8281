"""Measuring a target with real sessions, and fitting what was measured."""

from __future__ import annotations

import pytest

from holdfast.shielding.planner import Law, Machine, measure
from holdfast.shielding.planner.fitting import fitted
from holdfast.shielding.planner.laws import sizes


@pytest.mark.slow
def test_measured_laws_are_plausible() -> None:
    found = measure()
    assert Machine.from_json(found.to_json()) == found
    # half a billion products take a core between a millisecond and a minute
    for laws in (found.trusted, found.open, found.worker):
        assert 1e-3 < laws.conv2d.seconds(inner=1152, channels=128, outputs=128 * 56 * 56) < 60.0
    assert 1e-6 < found.crossing < 10.0
    assert found.bandwidth > 1e5


def test_a_law_is_found_again_from_its_own_times() -> None:
    law = Law(base=2e-5, mac=1e-10, operand=3e-9, output=1e-9)
    shapes = [
        (27, 16, 16384),
        (144, 16, 16384),
        (576, 64, 50176),
        (1152, 128, 25088),
        (64, 128, 25088),
        (147, 64, 802816),
    ]
    times = [law.seconds(inner=inner, channels=channels, outputs=outputs) for inner, channels, outputs in shapes]
    found = fitted([sizes(*shape, 0) for shape in shapes], times)
    assert found.seconds(inner=288, channels=32, outputs=32768) == pytest.approx(
        law.seconds(inner=288, channels=32, outputs=32768), rel=1e-3
    )


def test_prices_are_never_negative() -> None:
    shapes = [(10, 10, 100), (20, 10, 100), (40, 10, 100)]
    found = fitted([sizes(*shape, 0) for shape in shapes], [3e-3, 2e-3, 1e-3])  # a larger product that takes less time
    assert min(found.prices()) >= 0.0
