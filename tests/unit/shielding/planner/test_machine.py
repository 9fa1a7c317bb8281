"""Measuring a target with real sessions, and fitting what was measured."""

from __future__ import annotations

import pytest

from holdfast.shielding.planner import Law, Machine, measure
from holdfast.shielding.planner.fitting import Turn, fitted, fitted_machine
from holdfast.shielding.planner.laws import sizes, wire_bytes
from holdfast.shielding.planner.small import ELEMENTWISE


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


def turns(device: float) -> tuple[list[Turn], list[Turn], list[Turn]]:
    """Return turns of a worker ``device`` times as fast as the trusted world, over a way of 1 GB/s and 50 us."""
    shapes = [("conv2d", (9 * k, 8 * k, 800 * k, 700 * k)) for k in (1, 2, 5, 9, 14, 20)]
    shapes += [("linear", (70 * k, 60 * k, 90 * k, 110 * k)) for k in (1, 2, 3, 5, 8, 13)]
    ways = [("conv2d", (1, 1, 1, 1)), ("conv2d", (1, 1, 2**18, 2**18))]

    def seconds(kind: str, shape: tuple[int, ...], speed: float) -> float:
        return (1e-9 * shape[0] * shape[2] + (2e-8 if kind == "linear" else 1e-8) * shape[2]) / speed

    def turn(kind: str, prefix: str, shape: tuple[int, ...], phases: dict[str, float], planes: int = 1) -> Turn:
        made = Turn(sizes(*shape), f"{prefix}{kind}", lambda: phases, planes)
        made()
        return made

    here = [turn(k, "", s, {"product": seconds(k, s, 1.0), "handling": 1e-6}) for k, s in (*shapes, *ways)]
    there = []
    for prefix, planes, kinds in (("verified ", 1, (*shapes, *ways)), ("blinded ", 3, shapes)):
        for kind, shape in kinds:
            spent = 5e-5 + wire_bytes(planes, shape[3], shape[2]) / 1e9 + planes * seconds(kind, shape, device)
            phases = {"remote": spent, "wait": spent, "check": 1e-6, "masks": 1e-6}
            there.append(turn(kind, prefix, shape, phases, planes))
    small = [turn(ELEMENTWISE, "", (0, 0, n, n), {"call": 1e-6 + 1e-9 * n}) for n in (10, 1000, 10**6)]
    return here, there, small


@pytest.mark.parametrize(("speed", "accelerated"), [(1.0, False), (1000.0, True)])
def test_the_way_and_the_worker_are_told_apart(speed: float, accelerated: bool) -> None:
    """A bandwidth from which a processor's product was taken off would be far too high for a GPU."""
    found = fitted_machine(*turns(speed), accelerated=accelerated)
    assert found.bandwidth == pytest.approx(1e9, rel=0.02)
    assert found.crossing == pytest.approx(5e-5, rel=0.02)
    assert found.open == (found.worker if accelerated else found.trusted)
    sizes_of = {"inner": 81, "channels": 72, "outputs": 7200, "inputs": 6300}
    assert found.trusted.conv2d.seconds(**sizes_of) == pytest.approx(81 * 7200e-9 + 7200e-8, rel=0.05)
    assert (found.worker.conv2d.seconds(**sizes_of) < found.trusted.conv2d.seconds(**sizes_of) / 5) == accelerated
