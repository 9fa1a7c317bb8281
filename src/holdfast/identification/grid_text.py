"""How a server wrote its numbers: the digits of JSON text tell whether it rounded before it sent them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

import numpy as np

from holdfast.errors import InvalidConfig

ABSENT = -9000  # servers write -9999 for a token they know nothing of
_SURE = math.log(1e6)  # odds that the digits end by chance


@dataclass(frozen=True, slots=True)
class Rounding:
    """What the digits show.

    Attributes:
        kind: ``decimals`` (a fixed number of places), ``digits`` (a fixed number of significant ones), ``fp32`` or
            ``fp64`` (written in full, every word survives), or ``cannot tell``.
        places: decimals or significant digits, where rounded.
    """

    kind: str
    places: int | None = None

    @property
    def rounded(self) -> bool:
        """Whether bits were lost."""
        return self.kind in ("decimals", "digits")

    def half_step(self, value: float) -> float:
        """Return the largest error that rounding gives ``value``."""
        if self.places is None or value == 0:
            return 0.0
        last = -self.places if self.kind == "decimals" else math.floor(math.log10(abs(value))) - self.places + 1
        return 0.5 * 10.0**last


def rounding_of(texts: Sequence[str]) -> Rounding:
    """Tell from the raw text of numbers how a server rounded them.

    Args:
        texts: numbers as they stand in the JSON; zeros are ignored, since log-probabilities of -0.0 are common, and so
            is what stands for no number (``NaN``, ``Infinity``, ``-9999.0``).

    Raises:
        InvalidConfig: text that is no number.
    """
    numbers = [number for text in texts if is_known(text) and (number := _number(text))]
    if len(numbers) < 2:
        return Rounding("cannot tell")
    places = max(max(-_last(number), 0) for number in numbers)
    digits = max(len(number.as_tuple().digits) for number in numbers)
    candidates = (Rounding("decimals", places), Rounding("digits", digits))
    best = max(candidates, key=lambda rounding: _surprise(numbers, rounding))
    if _surprise(numbers, best) > _SURE:
        return best
    if all(float(number) == float(np.float32(float(number))) or _is_shortest(number) for number in numbers):
        return Rounding("fp32")
    return Rounding("fp64") if digits > 12 else Rounding("cannot tell")


def is_known(text: str) -> bool:
    """Say whether a log-probability is a number: not infinite, not NaN, and not the -9999 of unknown tokens.

    Raises:
        InvalidConfig: text that is no number.
    """
    number = _number(text)
    return number.is_finite() and number > ABSENT


def _number(text: str) -> Decimal:
    try:
        number = Decimal(text.strip())
    except InvalidOperation as error:
        raise InvalidConfig(f"{text!r} is no number", hint="pass the raw text of the values, without quotes") from error
    return number.normalize() if number.is_finite() else number


def _last(number: Decimal) -> int:
    """Return the power of ten of the last digit that is not zero."""
    return int(number.as_tuple().exponent)


def _is_shortest(number: Decimal) -> bool:
    """Say whether the digits are those with which float32 values are printed."""
    return Decimal(str(np.float32(float(number)))).normalize() == number


def _surprise(numbers: Sequence[Decimal], rounding: Rounding) -> float:
    """Return the nats by which a step of ten explains the numbers better than float32 words, or dyadic ones, do.

    A value of a binary grid may have few decimals of its own (multiples of 1/16 have four), so the coarsest binary
    step that holds all numbers is what rounding must beat.
    """
    values = np.array([float(number) for number in numbers])
    steps = np.array([2 * rounding.half_step(value) for value in values])
    fine = np.spacing(np.abs(values).astype(np.float32)).astype(np.float64)
    binary = next((2.0**-k for k in range(24) if bool((values * 2.0**k == np.rint(values * 2.0**k)).all())), 0.0)
    return float(np.log(steps / np.maximum(fine, binary)).sum())
