"""What the guards of a model did in one pass: values they set right, and alarms about what they could not."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from holdfast.models.card import cards
from holdfast.models.guard_kinds import AnyGuard

Counts = tuple[Tensor | None, ...]


@dataclass(frozen=True, slots=True)
class Acted:
    """Per row of a pass: all that guards set right, what they set right beyond the golden pass, and alarms."""

    events: list[int]
    more: list[int]
    alarms: list[int]


def forget(guards: Sequence[AnyGuard]) -> None:
    """Make every guard forget its last pass, so that one that does not run is not taken for one that found nothing."""
    for guard in guards:
        guard.events = None  # type: ignore[misc]
        with suppress(AttributeError):  # not every kind raises alarms
            guard.alarms = None  # type: ignore[union-attr]


def counted(guards: Sequence[AnyGuard], rows: int, pieces: Sequence[int] | None = None) -> Counts:
    """Return the events of each guard in the last pass, int64 (rows,); None where it did not run.

    Args:
        guards: in order.
        rows: of the pass.
        pieces: in how many pieces a row lies in what each guard sees, where whole passes left the counts; None: in
            one, as engines leave them that put the counts of single rows one after the other.
    """
    each = [1] * len(guards) if pieces is None else pieces
    return tuple(_per_row(guard.events, rows, lie) for guard, lie in zip(guards, each, strict=True))


def acted(
    guards: Sequence[AnyGuard], rows: int, golden: Counts | None = None, pieces: Sequence[int] | None = None
) -> Acted:
    """Return what the guards did in the last pass; one that did not run did what it did in the golden pass."""
    if not guards:
        return Acted([0] * rows, [0] * rows, [0] * rows)
    each = [1] * len(guards) if pieces is None else pieces
    now = counted(guards, rows, each)
    golden = (None,) * len(now) if golden is None else golden
    found = zip(now, golden, strict=True)
    events = _sum([before if after is None else after for after, before in found], rows)
    raised = [_per_row(getattr(guard, "alarms", None), rows, lie) for guard, lie in zip(guards, each, strict=True)]
    alarms = _sum(raised, rows).to(events.device)
    columns = torch.stack([events, (events - _sum(golden, rows).to(events.device)).clamp_min(0), alarms]).tolist()
    return Acted(*columns)


def guards_of(model: nn.Module) -> list[AnyGuard]:
    """Return the guards of ``model`` and of models inside it."""
    return [guard for found in cards(model) for guard in found.guards]


def _per_row(counts: Tensor | None, rows: int, pieces: int) -> Tensor | None:
    """Return counts per sample; a guard in a part that folds samples apart has several counts for each."""
    if counts is None or rows == 0 or counts.numel() % (rows * pieces):
        return None
    return counts.detach().reshape(pieces, rows, -1).sum((0, 2))


def _sum(counts: Sequence[Tensor | None], rows: int) -> Tensor:
    """Return the sums on the device of the counts, so that one transfer brings all of them."""
    known = [part for part in counts if part is not None]
    if not known:
        return torch.zeros(rows, dtype=torch.int64)
    place = next((part.device for part in known if part.device.type != "cpu"), known[0].device)
    return torch.stack([part.to(place, torch.int64) for part in known]).sum(0)
