"""One row of a campaign's table, and the verdict of a task that fills most of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """What became of one trial.

    Distances are None where no finite one exists: NaN, infinity, a crash, a refused result. What a task does not
    measure is None too, and so is what an older store did not hold.
    """

    trial: int
    site: str
    element: int
    bit: int
    input: int
    outcome: str
    max_ulp: float | None
    max_relative: float | None
    guard_events: int
    cause: str | None = None  # of a DUE, one of Cause
    max_absolute: float | None = None
    divergence: float | None = None  # Kullback-Leibler, golden to observed, in nats; of a text, mean over tokens
    probability: float | None = None  # largest change of a probability, 0..1
    margin: float | None = None  # lead of the golden class, as a share of its golden lead; negative once it lost
    top1: int | None = None  # 1 where another class won; of a text or a map, where another one did anywhere
    top5: int | None = None  # 1 where the winner is none of the golden five
    perplexity: float | None = None  # of the window, over the golden one
    edits: int | None = None  # changed tokens of the greedy text, or detected objects lost and new
    diverged: int | None = None  # place of the first new token that differs
    alarms: int | None = None  # what guards found wrong and did not set right
    rerun: str | None = None  # "transient" where a second run gave the golden bits, "persistent" where it did not
    agreement: float | None = None  # of two maps, mean IoU; of detections, F1 against the golden ones


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a task makes of one observed output; the fields are those of :class:`Row`."""

    outcome: str
    cause: str | None = None
    max_ulp: float | None = None
    max_relative: float | None = None
    max_absolute: float | None = None
    divergence: float | None = None
    probability: float | None = None
    margin: float | None = None
    top1: int | None = None
    top5: int | None = None
    perplexity: float | None = None
    edits: int | None = None
    diverged: int | None = None
    agreement: float | None = None
