"""The number format of a server's head, told from the log-probabilities in its answers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from holdfast.errors import InvalidConfig
from holdfast.identification.answers import Answer, Collection
from holdfast.identification.grid import CANNOT_TELL
from holdfast.identification.grid_logprobs import dtype_from_logprobs
from holdfast.identification.grid_text import Rounding

_POSITIONS = 64  # positions that are enough for the grid rules


@dataclass(frozen=True, slots=True)
class Head:
    """What log-probabilities tell about a server's head.

    Attributes:
        dtype: format of the logits, ``one of {...}`` or ``cannot tell``.
        confidence: probability of the formats that ``dtype`` names.
        rounding: how the numbers were written.
        temperature: divisor of the logits, up to powers of two; None where no grid shows one.
        moved: tokens off the grid of all others.
        positions: positions that were read.
        answers: answers they came from.
    """

    dtype: str
    confidence: float
    rounding: Rounding
    temperature: float | None
    moved: int
    positions: int
    answers: int

    @property
    def told(self) -> bool:
        """Whether the rules decided."""
        return self.dtype != CANNOT_TELL

    @property
    def open(self) -> bool:
        """Whether several formats are left: tokens further down the list would decide."""
        return self.dtype.startswith("one of")

    @property
    def rounding_text(self) -> str:
        """The rounding in words."""
        return f"rounded to {self.rounding.places} {self.rounding.kind}" if self.rounding.rounded else "in full"

    def __str__(self) -> str:
        """Return the format."""
        return f"{self.dtype} (confidence {self.confidence:.4f})" if self.told else self.dtype

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "dtype": self.dtype,
            "confidence": self.confidence,
            "rounding": {"kind": self.rounding.kind, "places": self.rounding.places},
            "temperature": self.temperature,
            "moved": self.moved,
            "positions": self.positions,
            "answers": self.answers,
        }


def head_of(collection: Collection) -> Head:
    """Tell the number format of the head behind a collection of answers.

    Raises:
        InvalidConfig: the server sent no top log-probabilities.
    """
    return head_of_answers(collection.answers(), temperature=float(collection.request.get("temperature", 0.0)))


def head_of_answers(answers: Iterable[Answer], *, temperature: float = 0.0) -> Head:
    """Tell the number format of the head behind some answers of one server, one is enough.

    Positions of the prompt count too where they were asked for: their tokens stand further down the list, where the
    grid of the logits gets finer and so shows how large they are. A high temperature does the same.

    Args:
        answers: read until there are 64 positions.
        temperature: at which they were asked for.

    Raises:
        InvalidConfig: the server sent no top log-probabilities.
    """
    rows: list[tuple[str, ...]] = []
    count = 0
    for count, answer in enumerate(answers, 1):  # noqa: B007
        rows += [row for row in _positions(answer) if len(row) > 1]
        if len(rows) >= _POSITIONS:
            break
    if not rows:
        raise InvalidConfig(
            f"{count} answers hold no top log-probabilities",
            hint="collect with top log-probabilities, or compare texts with holdfast compare",
        )
    rows = rows[:_POSITIONS]
    found = dtype_from_logprobs(rows, temperature=_divisors(temperature))
    sure = found.formats.confidence if found.dtype != CANNOT_TELL else 0.0
    return Head(found.dtype, sure, found.rounding, found.temperature, len(found.moved), len(rows), count)


def _positions(answer: Answer) -> tuple[tuple[str, ...], ...]:
    return answer.positions(of_prompt=True) + answer.positions()


def _divisors(asked: float) -> tuple[float, ...]:
    """Return what the log-probabilities may have been divided by: servers give them before their temperature or after.

    At temperature 0 there is nothing to divide by, and they are those of 1.
    """
    return (1.0,) if asked in (0.0, 1.0) else (1.0, asked)
