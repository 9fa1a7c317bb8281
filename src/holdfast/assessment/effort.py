"""How much an assessment measures."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast._registry import unknown


@dataclass(frozen=True, slots=True)
class Effort:
    """Sizes of all measurements; intervals tell what they buy."""

    rates: tuple[float, ...] = (1e-4, 1e-3, 5e-3, 1e-2)  # bit-error rates
    chips: int = 10  # simulated chips per rate
    images: int = 1000  # evaluated per chip
    trials: int = 3000  # single-bit faults in activations, per arm
    weight_trials: int = 500  # single-bit faults in weights
    probes: int = 64  # inputs of a platform trace
    shield_images: int = 16  # compared bit for bit through the shield
    lies: int = 200  # one-bit lies of the worker


EFFORTS = {
    "quick": Effort(chips=4, images=200, trials=400, weight_trials=100, probes=16, shield_images=4, lies=40),
    "standard": Effort(),
    "thorough": Effort(chips=50, images=9000, trials=20_000, weight_trials=5000, lies=2000),
}


def effort_named(name: str) -> Effort:
    """Return a preset; raise :class:`UnknownName` for any other name."""
    if name not in EFFORTS:
        raise unknown("effort", name, EFFORTS)
    return EFFORTS[name]
