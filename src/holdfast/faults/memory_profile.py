"""Voltage, bit error rate and energy of a memory, as a table that may be read both ways.

The default profile is that of 32 SRAM arrays of 512 x 64 bits in 14 nm (Stutz et al., MLSys 2021): voltages are
relative to the lowest at which no bit failed, and the energy of an access is the voltage squared.
The interpolation between the measured voltages is ours: the logarithm of the rate is linear in the voltage, and between
the last voltage with an error and the first without one, where that has no meaning, the rate itself is.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise
from math import exp, log

from holdfast.errors import InvalidConfig
from holdfast.execution.condition import Flips, Population, faults
from holdfast.faults.bit_errors import BitErrors
from holdfast.faults.rates import check_finite
from holdfast.seeds import Seed


@dataclass(frozen=True, kw_only=True)
class MemoryProfile:
    """A measured memory: the bit error rate at each of some ascending voltages; an access costs the voltage squared.

    Attributes:
        voltages: relative to the lowest at which no bit fails, ascending up to 1.
        rates: per bit, descending; only the last may be zero.

    Raises:
        InvalidConfig: lists of different lengths, of fewer than two points, or out of order.
    """

    voltages: tuple[float, ...]
    rates: tuple[float, ...]

    def __post_init__(self) -> None:
        known = tuple(zip(self.voltages, self.rates, strict=False))
        ordered = all(low[0] < high[0] and low[1] > high[1] for low, high in pairwise(known))
        if not 2 <= len(self.voltages) == len(self.rates) or not ordered:
            raise InvalidConfig("a memory profile has two points or more, of rising voltage and falling rate")
        if not (self.voltages[0] > 0 and self.rates[0] <= 1 and self.rates[-1] >= 0):
            raise InvalidConfig("a memory profile has voltages above zero and rates between 0 and 1")

    def rate(self, voltage: float) -> float:
        """Return the bit error rate at a relative ``voltage``.

        Raises:
            InvalidConfig: the voltage is outside the measured range.
        """
        _check_within(voltage, self.voltages[0], self.voltages[-1], "a relative voltage")
        place = min(bisect_right(self.voltages, voltage), len(self.voltages) - 1)
        low, high = self.voltages[place - 1], self.voltages[place]
        more, less = self.rates[place - 1], self.rates[place]
        part = (voltage - low) / (high - low)
        if part in (0, 1):
            return less if part else more
        return exp(log(more) + part * (log(less) - log(more))) if less else more * (1 - part)

    def voltage(self, rate: float) -> float:
        """Return the relative voltage at which the bit error rate is ``rate``, the inverse of :meth:`rate`.

        Raises:
            InvalidConfig: no measured voltage has so many errors, or so few.
        """
        _check_within(rate, self.rates[-1], self.rates[0], "a bit error rate of this memory")
        place = next(number for number in range(1, len(self.rates)) if self.rates[number] <= rate)
        low, high = self.voltages[place - 1], self.voltages[place]
        more, less = self.rates[place - 1], self.rates[place]
        part = (log(more) - log(rate)) / (log(more) - log(less)) if less else 1 - rate / more
        return low + part * (high - low)

    def energy(self, voltage: float) -> float:
        """Return the energy of an access at a relative ``voltage``, relative to that at 1.

        Raises:
            InvalidConfig: the voltage is outside the measured range.
        """
        _check_within(voltage, self.voltages[0], self.voltages[-1], "a relative voltage")
        return voltage**2

    def saving(self, rate: float) -> float:
        """Return the share of the energy of an access, 0..1, that accepting a bit error rate of ``rate`` saves.

        Raises:
            InvalidConfig: no measured voltage has so many errors, or so few.
        """
        return 1 - self.energy(self.voltage(rate))


_BITS = 32 * 512 * 64
SRAM_14NM = MemoryProfile(
    voltages=tuple(n / 24 for n in range(18, 25)),  # printed as .75 .792 .833 .875 .917 .958 1
    rates=(0.2056, 0.05573, 0.01115, 0.00129, 72 / _BITS, 2 / _BITS, 0.0),
)


@faults.register("sram-voltage")
@dataclass(frozen=True, slots=True, kw_only=True)
class SramVoltage:
    """The bit errors of a 14 nm SRAM at a supply of ``voltage``, relative to the lowest without errors.

    These are :class:`BitErrors` of the rate that :data:`SRAM_14NM` has there: independent, the same chip for a seed at
    every voltage, and more of them the lower it is.
    """

    voltage: float  # relative, 0.75..1

    def __post_init__(self) -> None:
        SRAM_14NM.rate(self.voltage)

    @property
    def rate(self) -> float:
        """The bit error rate at this voltage."""
        return SRAM_14NM.rate(self.voltage)

    @property
    def energy(self) -> float:
        """The energy of an access, relative to that at voltage 1."""
        return SRAM_14NM.energy(self.voltage)

    def flips(self, population: Population, seed: Seed) -> list[Flips]:
        """Return the flips of chip ``seed``."""
        return BitErrors(rate=self.rate).flips(population, seed)


def _check_within(value: float, low: float, high: float, what: str) -> None:
    check_finite(value, what)
    if not low <= value <= high:
        raise InvalidConfig(f"{what} lies between {low:.4g} and {high:.4g}, not {value:g}", hint="nothing was measured")
