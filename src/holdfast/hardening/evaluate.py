"""What a guard is worth: what it detects and sets right, what it disturbs on clean and shifted data, what it costs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.data import Dataset
from holdfast.errors import InvalidConfig
from holdfast.execution import Proportion, accuracy, campaign, paired, predict
from holdfast.execution.condition import Fault
from holdfast.execution.report import FAILURES
from holdfast.hardening.binding import require_other_data
from holdfast.models import alarms_of, card
from holdfast.models.census import pieces_of_guards

_TURNS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class FalsePositives:
    """What guards do where there is no fault.

    Attributes:
        samples: share of samples on which a guard acted or raised an alarm.
        events: elements changed, by site; sites without any are left out.
        changed: share of samples whose predicted class changed.
    """

    samples: Proportion
    events: Mapping[str, int]
    changed: Proportion


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardReport:
    """The worth of a model's guards; shares come with 95 % intervals.

    Attributes:
        guards: number of guards.
        critical: share of faults that change the predicted class, without guards and with them.
        due: share of faults that give NaN, infinity or a crash, likewise.
        p_value: McNemar's exact test that both arms fail equally often, on common faults.
        coverage: of the faults that were critical or DUE without guards, the share on which a guard acted.
        corrected: of the same, the share that is neither with guards.
        clean: on clean data that the guards were not calibrated on.
        shifted: on each shifted data set, by name.
        accuracy: of the model without guards and with them, on the clean data.
        overhead: CPU time of a pass with guards over one without, minus 1; from interleaved turns.
    """

    guards: int
    critical: tuple[Proportion, Proportion]
    due: tuple[Proportion, Proportion]
    p_value: float
    coverage: Proportion | None
    corrected: Proportion | None
    clean: FalsePositives
    shifted: Mapping[str, FalsePositives] = field(default_factory=dict)
    accuracy: tuple[Proportion, Proportion]
    overhead: float

    def to_json(self) -> dict[str, Any]:
        """Return plain values; a share is {value, low, high, n}."""
        return {
            "guards": self.guards,
            "critical": [_share(item) for item in self.critical],
            "due": [_share(item) for item in self.due],
            "p_value": self.p_value,
            "coverage": _share(self.coverage),
            "corrected": _share(self.corrected),
            "clean": _false_positives(self.clean),
            "shifted": {name: _false_positives(item) for name, item in self.shifted.items()},
            "accuracy": [_share(item) for item in self.accuracy],
            "overhead": self.overhead,
        }


def evaluate_guards(
    plain: nn.Module,
    hardened: nn.Module,
    data: Dataset,
    fault: Fault,
    *,
    at: str = "activations",
    trials: int = 1000,
    seed: int = 0,
    shifted: Mapping[str, Dataset] | None = None,
) -> GuardReport:
    """Measure ``hardened`` against the ``plain`` model that it was made from, on common faults.

    Args:
        plain: the model without guards.
        hardened: the same weights with guards.
        data: clean and labelled; never the data the guards were calibrated on.
        fault: its law.
        at: selection of sites it strikes, in both arms.
        trials: faults in each arm.
        seed: of the campaign.
        shifted: further data by name, for false positives away from the calibration.

    Raises:
        InvalidConfig: ``data`` is what the guards were calibrated on, or there are no guards.
    """
    if not card(hardened).guards:
        raise InvalidConfig("the model has no guards to evaluate", hint="harden it first")
    require_other_data(hardened, data.digest)
    arms = [campaign(model, data, fault, at=at, trials=trials, seed=seed) for model in (plain, hardened)]
    outcomes = paired(*arms)
    failed = [row.outcome in FAILURES for row in arms[0].rows]
    rows = [row for row, bad in zip(arms[1].rows, failed, strict=True) if bad]
    return GuardReport(
        guards=len(card(hardened).guards),
        critical=(arms[0]["critical"], arms[1]["critical"]),
        due=(arms[0]["due"], arms[1]["due"]),
        p_value=outcomes.p_value,
        coverage=_of(sum(row.guard_events > 0 or row.outcome == "detected" for row in rows), len(rows)),
        corrected=_of(sum(row.outcome not in FAILURES for row in rows), len(rows)),
        clean=false_positives(plain, hardened, data),
        shifted={name: false_positives(plain, hardened, item) for name, item in (shifted or {}).items()},
        accuracy=(accuracy(plain, data), accuracy(hardened, data)),
        overhead=overhead(plain, hardened, data.take(1).all()[0]),
    )


def false_positives(plain: nn.Module, hardened: nn.Module, data: Dataset, *, batch_size: int = 64) -> FalsePositives:
    """Run both models over ``data`` without faults and count what the guards did."""
    guards, touched, changed = card(hardened).guards, 0, 0
    lies = pieces_of_guards(hardened, data.example, guards)
    batch_size = 1 if None in lies else batch_size  # it cannot be told for which of several samples such a guard acted
    events: dict[str, int] = {}
    for start in range(0, len(data), batch_size):
        part = data.subset(range(start, min(start + batch_size, len(data))))
        before, after = predict(plain, part), predict(hardened, part)
        acted = torch.zeros(len(part), dtype=torch.bool)
        for guard, lie in zip(guards, lies, strict=True):
            for count in (guard.events, alarms_of(guard)):
                if count is not None and int(count.sum()):
                    events[guard.site] = events.get(guard.site, 0) + int(count.sum())
                    acted |= _by_row(count, len(part), lie or 1)
        touched += int(acted.sum())
        changed += int((before.argmax(1) != after.argmax(1)).sum())
    return FalsePositives(
        samples=Proportion.wilson(touched, len(data)),
        events=events,
        changed=Proportion.wilson(changed, len(data)),
    )


def overhead(plain: nn.Module, hardened: nn.Module, batch: Tensor, *, turns: int = _TURNS) -> float:
    """Return the CPU time of a guarded pass over that of a plain one, minus 1, from the fastest of ``turns`` turns."""
    with torch.no_grad():
        pairs = [(_seconds(plain, batch), _seconds(hardened, batch)) for _ in range(turns + 1)][1:]
    return min(pair[1] for pair in pairs) / max(min(pair[0] for pair in pairs), 1e-9) - 1


def _seconds(model: nn.Module, batch: Tensor) -> float:
    start = time.process_time()
    model(batch)
    return time.process_time() - start


def _by_row(count: Tensor, rows: int, pieces: int) -> Tensor:
    """Return which of ``rows`` samples have a count; one that no sample has to itself concerns all."""
    if count.numel() % (rows * pieces):
        return torch.full((rows,), bool(count.sum()))
    return count.cpu().reshape(pieces, rows, -1).sum((0, 2)) > 0


def _of(count: int, total: int) -> Proportion | None:
    return Proportion.wilson(count, total) if total else None


def _share(item: Proportion | None) -> dict[str, Any] | None:
    return None if item is None else {"value": item.value, "low": item.low, "high": item.high, "n": item.n}


def _false_positives(item: FalsePositives) -> dict[str, Any]:
    return {"samples": _share(item.samples), "events": dict(item.events), "changed": _share(item.changed)}
