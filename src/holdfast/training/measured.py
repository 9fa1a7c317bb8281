"""What an epoch of training measured."""

from __future__ import annotations

import math
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Means over the samples of one epoch, while the weights moved.

    Attributes:
        epoch: from 0.
        loss: of the clean passes.
        perturbed: loss under bit errors, over the batches that had some; None when none had.
        error: share that the clean passes got wrong, 0..1; None when the recipe does not say.
        lr: learning rate of the first batch.
        seconds: wall time.
    """

    epoch: int
    loss: float
    perturbed: float | None
    error: float | None
    lr: float
    seconds: float


@dataclass
class Meter:
    """Sums over batches."""

    _seen: list[tuple[int, float, float | None, float | None]] = field(default_factory=list)

    def add(self, loss: float, count: int) -> None:
        """Take in a batch of ``count`` samples; a plain float knows its clean loss only."""
        self._seen.append((count, float(loss), getattr(loss, "perturbed", None), getattr(loss, "error", None)))

    def result(self, epoch: int, lr: float, seconds: float) -> Measured:
        """Return the means."""
        loss, perturbed, error = (self._mean(column) for column in (1, 2, 3))
        return Measured(
            epoch=epoch,
            loss=math.nan if loss is None else loss,
            perturbed=perturbed,
            error=error,
            lr=lr,
            seconds=seconds,
        )

    def _mean(self, column: int) -> float | None:
        known = [(row[0], row[column]) for row in self._seen if row[column] is not None]
        count = sum(weight for weight, _ in known)
        return math.fsum(weight * (value or 0.0) for weight, value in known) / count if count else None
