"""Running the trials of one block and classifying what came out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from holdfast.data import Dataset
from holdfast.errors import IntegrityError, TrialError
from holdfast.execution.compare import Comparison, Outcome, compare
from holdfast.execution.injection import applied, tap_sites
from holdfast.execution.plan import Block, Trial
from holdfast.execution.store import Row
from holdfast.models import card
from holdfast.numerics import bits


@dataclass
class Runner:
    """Runs blocks on one model; golden outputs of single inputs are kept between blocks."""

    model: nn.Module
    data: Dataset
    strict: bool = False
    _golden: dict[int, Tensor] = field(default_factory=dict)

    def run(self, block: Block) -> list[Row]:
        """Return one row per trial of ``block``.

        Raises:
            TrialError: a trial crashed and ``strict`` is set.
        """
        with torch.no_grad():
            if block.shared:
                rows = self._shared(block.trials)
                if rows is not None:
                    return rows
            return [self._alone(trial) for trial in block.trials]

    def _shared(self, trials: tuple[Trial, ...]) -> list[Row] | None:
        """Run one forward with a fault in each row against the golden output of the same batch; None if it crashed."""
        images, _ = self.data.batch(torch.tensor([trial.input for trial in trials]))
        golden = self.model(images)
        observed = self._guarded(trials, images)
        if isinstance(observed, Outcome):
            return None
        comparison, events = compare(golden, observed), self._events(len(trials))
        return [_row(trial, comparison.outcome(k), comparison, k, events[k]) for k, trial in enumerate(trials)]

    def _alone(self, trial: Trial) -> Row:
        images, _ = self.data.batch(torch.tensor([trial.input]))
        if trial.input not in self._golden:
            self._golden[trial.input] = self.model(images)
        observed = self._guarded((trial,), images)
        if isinstance(observed, Outcome):
            return _row(trial, observed, None, 0, 0)
        comparison = compare(self._golden[trial.input], observed)
        return _row(trial, comparison.outcome(0), comparison, 0, self._events(1)[0])

    def _guarded(self, trials: tuple[Trial, ...], images: Tensor) -> Tensor | Outcome:
        try:
            return self._faulty(trials, images)
        except IntegrityError:
            self.model.recover()  # type: ignore[operator]  # only sessions raise it, and they can reopen
            return Outcome.DETECTED
        except Exception as error:  # noqa: BLE001  a crash under fault is an outcome, not our failure
            if self.strict:
                raise TrialError(f"trial {trials[0].number} crashed: {error}") from error
            return Outcome.DUE

    def _faulty(self, trials: tuple[Trial, ...], images: Tensor) -> Tensor:
        if len(trials) == 1 and trials[0].lane == "":
            with applied(self.model, trials[0].flips):
                return self.model(images)  # type: ignore[no-any-return]
        site = trials[0].flips[0].site
        with tap_sites(self.model, {site: _row_by_row(trials, site.numel)}):
            return self.model(images)  # type: ignore[no-any-return]

    def _events(self, batch: int) -> list[int]:
        counts = [guard.events for guard in card(self.model).guards if guard.events is not None]
        return torch.stack(counts).sum(0).tolist() if counts else [0] * batch  # type: ignore[no-any-return]


def _row_by_row(trials: tuple[Trial, ...], numel: int) -> Callable[[Tensor], Tensor]:
    """Return a tap that applies the flips of trial k to row k."""
    index = torch.cat([trial.flips[0].index + row * numel for row, trial in enumerate(trials)])
    mask = torch.cat([trial.flips[0].mask for trial in trials])

    def flip(output: Tensor) -> Tensor:
        output = output.contiguous()
        bits.xor_(output, index, mask)
        return output

    return flip


def _row(trial: Trial, outcome: Outcome, comparison: Comparison | None, row: int, events: int) -> Row:
    ulp = float(comparison.max_ulp[row]) if comparison is not None else float("inf")
    relative = float(comparison.max_relative[row]) if comparison is not None else float("inf")
    return Row(trial.number, *trial.place(), trial.input, outcome.value, ulp, relative, events)
