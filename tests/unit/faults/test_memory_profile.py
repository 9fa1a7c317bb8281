"""The SRAM profile: the published table, and a monotone way between its points that can be gone back."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import InvalidConfig
from holdfast.execution import Population
from holdfast.faults import SRAM_14NM, BitErrors, MemoryProfile, SramVoltage

Draw = Callable[..., np.ndarray]
TABLE = [  # Stutz et al., MLSys 2021: relative voltage, rate in percent, energy
    (18, 20.56, 0.5625),
    (19, 5.573, 0.6267),
    (20, 1.115, 0.6944),
    (21, 0.129, 0.7656),
    (22, 0.00686646, 0.8403),
    (23, 0.000190735, 0.9184),
    (24, 0.0, 1.0),
]


@pytest.mark.parametrize(("part", "percent", "energy"), TABLE)
def test_the_published_points(part: int, percent: float, energy: float) -> None:
    assert 100 * SRAM_14NM.rate(part / 24) == pytest.approx(percent, rel=1e-6)
    assert SRAM_14NM.energy(part / 24) == pytest.approx(energy, abs=6e-5)


@pytest.mark.parametrize(("percent", "saved"), [(0.01, 17), (0.1, 23), (0.5, 28), (1, 30), (1.5, 32), (2.5, 34)])
def test_energy_saved_at_the_rates_of_the_paper(percent: float, saved: int) -> None:
    assert round(100 * SRAM_14NM.saving(percent / 100)) == saved


@given(st.floats(0.75, 1.0))
def test_there_and_back(voltage: float) -> None:
    assert SRAM_14NM.voltage(SRAM_14NM.rate(voltage)) == pytest.approx(voltage, abs=1e-9)


@given(st.floats(0.75, 1.0), st.floats(0.75, 1.0))
def test_less_voltage_never_has_fewer_errors(one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert SRAM_14NM.rate(low) >= SRAM_14NM.rate(high)


def test_half_way_is_the_geometric_mean() -> None:
    assert SRAM_14NM.rate(19.5 / 24) == pytest.approx((0.05573 * 0.01115) ** 0.5)
    assert SRAM_14NM.rate(23.5 / 24) == pytest.approx(1 / 2**20)


@pytest.mark.parametrize("voltage", [0.7499, 1.0001, 0.0, -1.0, float("nan"), float("inf"), "low", True])
def test_nothing_was_measured_outside(voltage: float) -> None:
    for call in (SRAM_14NM.rate, SRAM_14NM.energy, lambda value: SramVoltage(voltage=value)):
        with pytest.raises(InvalidConfig, match="relative voltage"):
            call(voltage)


@pytest.mark.parametrize("rate", [0.21, -1e-9, float("nan")])
def test_no_voltage_has_such_a_rate(rate: float) -> None:
    with pytest.raises(InvalidConfig, match="bit error rate"):
        SRAM_14NM.voltage(rate)


@pytest.mark.parametrize(
    ("voltages", "rates"),
    [
        ((0.5,), (0.1,)),
        ((0.5, 1.0), (0.1,)),
        ((1.0, 0.5), (0.1, 0.0)),
        ((0.5, 1.0), (0.0, 0.1)),
        ((0.5, 0.7, 1.0), (0.1, 0.0, 0.0)),
        ((0.5, float("nan")), (0.1, 0.0)),
        ((0.5, 1.0), (1.1, 0.0)),
        ((0.5, 1.0), (0.1, -0.1)),
        ((0.0, 1.0), (0.1, 0.0)),
    ],
)
def test_bad_profiles(voltages: tuple[float, ...], rates: tuple[float, ...]) -> None:
    with pytest.raises(InvalidConfig, match="memory profile"):
        MemoryProfile(voltages=voltages, rates=rates)


def test_the_law_is_bit_errors_of_its_rate(memory: Population, draw: Draw) -> None:
    law = SramVoltage(voltage=0.85)
    assert law.rate == SRAM_14NM.rate(0.85)
    assert law.energy == pytest.approx(0.7225)
    assert np.array_equal(draw(law, memory, 1), draw(BitErrors(rate=law.rate), memory, 1))
    assert len(draw(SramVoltage(voltage=1.0), memory, 1)) == 0


def test_a_lower_voltage_adds_errors(memory: Population, draw: Draw) -> None:
    found = [set(draw(SramVoltage(voltage=voltage), memory, 2).tolist()) for voltage in (0.97, 0.9, 0.86, 0.8)]
    assert found[0] <= found[1] <= found[2] <= found[3]
    assert len(found[3]) > 10 * len(found[2]) > 0
