"""Running the trials of one block and classifying what came out."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.data import Dataset, Text
from holdfast.errors import HoldfastError, IntegrityError, TrialError
from holdfast.execution.acted import Acted, acted
from holdfast.execution.board import Board
from holdfast.execution.compare import Cause, Outcome
from holdfast.execution.engines import Batching, Choosing, build_engine
from holdfast.execution.goldens import Golden
from holdfast.execution.injection import STORED
from holdfast.execution.memory import is_out_of_memory, too_small
from holdfast.execution.passes import OtherShapeError, Passes, touched
from holdfast.execution.plan import Block, Trial
from holdfast.execution.row import Row, Verdict
from holdfast.execution.run import device_of
from holdfast.execution.state import Mark, State
from holdfast.execution.tasks import Exam, Task, task_for
from holdfast.execution.watchdog import Hang, Watchdog
from holdfast.models import stored
from holdfast.models.subject import require_unscripted

__all__ = ["Row", "TrialRunner"]

_log = logging.getLogger(__name__)
_RIGHT = (Outcome.MASKED.value, Outcome.CORRECTED.value, Outcome.LATENT.value)  # the golden bits came out
_WATCHDOG = Watchdog()


class TrialRunner:
    """Turns blocks into rows; holds the model, the exam and the golden answers seen so far.

    Args:
        model: any module, or a session that offloads layers.
        data: images, or a text.
        engine: how passes are computed.
        strict: raise when a trial crashes or hangs, instead of counting it as DUE.
        task: what the model is asked; None: what data of this kind are for.
        rerun: run every trial that did not end in the golden bits a second time, with only those of its faults that
            a second try would meet again: what is stored stays flipped, what flowed has gone by.
        watchdog: when a pass counts as hanging; None: never.
        batch: trials of a block, for engines that always compute as many.

    Raises:
        InvalidConfig: data that are not of the task, or that the model does not take; or a part of it is a script.
    """

    def __init__(
        self,
        model: nn.Module,
        data: Dataset | Text,
        *,
        engine: str = "hooks",
        strict: bool = False,
        task: Task | None = None,
        rerun: bool = False,
        watchdog: Watchdog | None = _WATCHDOG,
        batch: int | None = None,
    ) -> None:
        require_unscripted(model)
        self._model, self._strict, self._rerun = model, strict, rerun
        self._made: dict[str, Any] = {
            "engine": engine,
            "strict": strict,
            "task": task,
            "rerun": rerun,
            "watchdog": watchdog,
            "batch": batch,
        }
        self._data = data
        self._board: Board | None = None
        self._state = State(model)  # before anything runs
        self.exam: Exam = (task or task_for(data)).bind(model, data)
        engine_built = build_engine(engine, model, self.exam.batch)
        if batch is not None and isinstance(engine_built, Batching):
            engine_built.size(batch)
        self._passes = Passes(model, self.exam, engine_built, watchdog, self._state)

    def __reduce__(self) -> tuple[Callable[..., TrialRunner], tuple[nn.Module, Dataset | Text]]:
        """Travel without what was computed: another process fills its own cache, on a device of its own."""
        kind = self.device.type  # another process may see its only device under another number
        model = self._model if kind == "cpu" else copy.deepcopy(self._model).cpu()
        return partial(_arrived, kind, self._made), (model, self._data.to("cpu"))

    def blocks(self, trials: Sequence[Trial], batch: int) -> list[Block]:
        """Cut trials into blocks as the engine likes them."""
        return self._passes.engine.blocks(trials, batch)

    def computed(self) -> dict[str, str]:
        """Return which engine computes the trials and, where one was asked to choose, why it runs whole passes."""
        engine = self._passes.engine
        with torch.no_grad():
            return engine.settle(0) if isinstance(engine, Choosing) else {"computed": engine.name}

    def apart_because(self, at: str) -> str | None:
        """Return why trials at ``at`` may not share passes, found out by striking some rows; None where they may."""
        return self._passes.apart_because(at)

    @property
    def model(self) -> nn.Module:
        """The model under test."""
        return self._model

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return device_of(self._model)

    @property
    def exclusive(self) -> bool:
        """Whether the model holds a connection that only this process may use."""
        return self._passes.exclusive

    def require_repeatable(self, rows: int) -> str:
        """Run up to ``rows`` inputs twice without a fault; return the digest of the answers.

        Raises:
            InvalidConfig: the bits differ, so no difference could be blamed on a fault; or passes leave something
                behind, which only the engine ``hooks`` can put back.
            TrialError: not even one input fits in memory.
        """
        rows = min(rows, self.exam.size)
        try:
            with torch.no_grad():
                return self._passes.prove(tuple(range(rows)))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            _halve(rows, error)
        return self.require_repeatable(rows // 2)

    def __call__(self, block: Block) -> list[Row]:
        """Return one row per trial of the block, in its order."""
        board = self._board
        with torch.no_grad():
            together = len(block) > 1 and self._passes.engine.together(block) and not self._state.moving
            together = together and self._passes.shares_guards  # asked last: it takes passes
            if not together or (board is not None and board.is_suspect(block)):
                return [self._alone(trial) for trial in block]
            with nullcontext() if board is None else board.running(block):
                return self._share(block)

    def survive(self, blocks: Sequence[Block]) -> None:
        """Prepare for worker processes that die in these blocks: another one will know what they were doing."""
        numbers = [trial.number for block in blocks for trial in block]
        self._board = Board(max(numbers, default=0) + 1)

    def _share(self, block: Block) -> list[Row]:
        """Run all trials in one forward, one row each; when that fails, find out which trial it was."""
        mark = self._state.mark()
        try:
            rows = self._shared(block)
        except (IntegrityError, OtherShapeError, Hang):
            rows = []
        except HoldfastError:
            raise
        except Exception as error:  # noqa: BLE001  a crash is an outcome; run alone to see whose
            if is_out_of_memory(error):
                self._state.restore(self._state.written(mark, touched(block)))
                middle = self._halved(len(block), error)
                return [*self(block[:middle]), *self(block[middle:])]
            rows = []
        written = self._state.written(mark, touched(block))
        self._state.restore(written)
        return [self._alone(trial) for trial in block] if written or not rows else rows

    def _halved(self, rows: int, error: Exception) -> int:
        """Return half of ``rows``; an engine that computes batches of one size has halved that instead."""
        return max(1, rows // 2) if self._shrank() else _halve(rows, error)

    def _shrank(self) -> bool:
        """Have an engine that computes batches of one size halve that, and say whether it did."""
        engine = self._passes.engine
        if not isinstance(engine, Batching) or not engine.halve():
            return False
        self._passes.golden.forget()  # those of another size have other bits
        return True

    def _shared(self, block: Block) -> list[Row]:
        """Return the rows of a pass, none where its trials cannot share all that they are asked."""
        golden = self._passes.golden(tuple(trial.input for trial in block))
        if golden.answer.text is not None and not all(trial.together for trial in block):
            return []  # an engine flips a stored bit for its own row; the whole passes that make a text cannot
        return self._judged(block, golden)

    def _alone(self, trial: Trial) -> Row:
        if self._board is None:
            return self._lone(trial)
        if self._board.was_fatal(trial):
            return self._failed(trial, Hang(), self._codes(trial))
        with self._board.running((trial,)):
            return self._lone(trial)

    def _lone(self, trial: Trial) -> Row:
        golden = self._lone_golden(trial)  # outside: a model that crashes without a fault is no outcome
        mark, codes = self._state.mark(), self._codes(trial)
        try:
            row = self._judged((trial,), golden, mark)[0]
        except (Exception, Hang) as error:  # noqa: BLE001  told apart in _failed
            if is_out_of_memory(error) and self._shrank():
                self._state.restore(self._left(trial, mark))
                return self._lone(trial)
            row = self._failed(trial, error, codes)
            row = self._reran((trial,), [row], golden)[0]
        self._state.restore(self._left(trial, mark))
        return row

    def _lone_golden(self, trial: Trial) -> Golden:
        try:
            return self._passes.golden((trial.input,))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if not self._shrank():
                _halve(1, error)
        return self._lone_golden(trial)

    def _judged(self, block: Block, golden: Golden, mark: Mark | None = None) -> list[Row]:
        answer = self._passes.faulty(block, golden)
        verdicts = self.exam.judge([trial.input for trial in block], golden.answer, answer)
        done = acted(self._passes.guards, len(block), golden.events, self._passes.lie(len(block)))
        latent = mark is not None and self._is_latent(block[0], golden, mark)
        rows = [_settled(trial, verdicts[row], done, row, latent=latent) for row, trial in enumerate(block)]
        return self._reran(block, rows, golden)

    def _reran(self, block: Block, rows: list[Row], golden: Golden) -> list[Row]:
        """Say of every trial that went wrong whether a second try goes wrong too."""
        if not self._rerun or all(row.outcome in _RIGHT for row in rows):
            return rows
        again = ["transient" if well else "persistent" for well in self._passes.recovers(block, golden)]
        return [
            row if row.outcome in _RIGHT else replace(row, rerun=what) for row, what in zip(rows, again, strict=True)
        ]

    def _failed(self, trial: Trial, error: BaseException, codes: list[Tensor]) -> Row:
        """Return the row of a trial that gave no output to compare.

        Raises:
            TrialError: in strict mode.
            HoldfastError: the error is no outcome.
        """
        if isinstance(error, IntegrityError):
            if self.exclusive:
                self._model.recover()  # type: ignore[operator]  # raises when the worker itself lied
            return _row(trial, Verdict(outcome=Outcome.DETECTED.value), acted(self._passes.guards, 1))
        if isinstance(error, HoldfastError):
            raise error
        if isinstance(error, OtherShapeError):
            return _row(trial, Verdict(outcome=Outcome.DUE.value, cause=Cause.SHAPE.value))
        if isinstance(error, Hang):
            self._mend(trial, codes)
        what = "hung" if isinstance(error, Hang) else f"crashed: {type(error).__name__}: {error}"
        if self._strict:
            raise TrialError(f"trial {trial.number} {what}", hint="without strict it counts as DUE") from error
        cause = Cause.HANG if isinstance(error, Hang) else Cause.EXCEPTION
        return _row(trial, Verdict(outcome=Outcome.DUE.value, cause=cause.value))

    def _codes(self, trial: Trial) -> list[Tensor]:
        """Return what is stored where the trial will flip bits."""
        return [stored(self._model, f.site).at(f.index).clone() for f in trial.flips if f.site.kind in STORED]

    def _mend(self, trial: Trial, codes: list[Tensor]) -> None:
        """Put flipped bits back, in case the alarm rang while that was being done."""
        memory = [flips for flips in trial.flips if flips.site.kind in STORED]
        for flips, before in zip(memory, codes, strict=True):
            place = stored(self._model, flips.site)
            place.xor_(flips.index, (place.at(flips.index) ^ before).to(torch.int64))

    def _left(self, trial: Trial, mark: Mark) -> frozenset[str]:
        """Return what a trial has left behind, its own flips apart."""
        return self._state.written(mark, touched((trial,))) | self._state.moving

    def _is_latent(self, trial: Trial, golden: Golden, mark: Mark) -> bool:
        others = self._state.written(mark, touched((trial,))) - self._state.moving
        return self._state.digest() != golden.state or self._state.differs(others)


def _arrived(kind: str, made: dict[str, Any], model: nn.Module, data: Dataset | Text) -> TrialRunner:
    """Return the runner in another process, with weights of its own: what was sent may be memory shared by all."""
    return TrialRunner(copy.deepcopy(model).to(kind), data.to(kind), **made)


def _halve(rows: int, error: Exception) -> int:
    """Return half of ``rows``, and log that memory was too small for them.

    Raises:
        TrialError: there is no half of one.
    """
    if rows <= 1:
        raise too_small() from error
    _log.warning("out of memory with %d inputs in one pass, going on with %d", rows, rows // 2)
    return rows // 2


def _settled(trial: Trial, verdict: Verdict, done: Acted, row: int, *, latent: bool) -> Row:
    """Let alarms, corrections and what was left behind have their say beside the output."""
    outcome = verdict.outcome
    if outcome != Outcome.DUE and done.alarms[row]:
        outcome = Outcome.DETECTED.value
    elif outcome == Outcome.MASKED and done.more[row]:
        outcome = Outcome.CORRECTED.value
    elif outcome == Outcome.MASKED and latent:
        outcome = Outcome.LATENT.value
    return _row(trial, verdict if outcome == verdict.outcome else replace(verdict, outcome=outcome), done, row)


def _row(trial: Trial, verdict: Verdict, done: Acted | None = None, row: int = 0) -> Row:
    events, alarms = (0, None) if done is None else (done.events[row], done.alarms[row])
    return Row(
        trial.number,
        *trial.address,
        trial.input,
        verdict.outcome,
        verdict.max_ulp,
        verdict.max_relative,
        events,
        verdict.cause,
        verdict.max_absolute,
        verdict.divergence,
        verdict.probability,
        verdict.margin,
        verdict.top1,
        verdict.top5,
        verdict.perplexity,
        verdict.edits,
        verdict.diverged,
        alarms,
        agreement=verdict.agreement,
    )
