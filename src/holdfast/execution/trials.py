"""Running the trials of one block and classifying what came out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import torch
from torch import Tensor, nn

from holdfast.data import Dataset
from holdfast.errors import HoldfastError, IntegrityError, InvalidConfig, TrialError
from holdfast.execution.compare import Outcome, compare
from holdfast.execution.engines import build_engine
from holdfast.execution.plan import Block, Trial
from holdfast.models import card
from holdfast.numerics import bits

_GOLDEN_BATCHES = 1024  # kept outputs, shape (batch, classes) each


@dataclass(frozen=True, slots=True)
class Row:
    """What became of one trial; one row of the campaign's table.

    ``max_ulp`` and ``max_relative`` are None where no finite distance exists: NaN, infinity, a crash, a refused result.
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


class TrialRunner:
    """Turns blocks into rows; holds the model, the data and the golden outputs seen so far.

    Golden outputs are computed at the same batch composition as the faulty ones, because kernels may round
    differently for another number of rows.
    """

    def __init__(self, model: nn.Module, data: Dataset, *, engine: str = "hooks", strict: bool = False) -> None:
        self._model, self._data, self._strict = model, data, strict
        self._engine = build_engine(engine, model, self._images)
        self._name = engine
        self._golden = lru_cache(maxsize=_GOLDEN_BATCHES)(self._compute_golden)

    def __reduce__(self) -> tuple[Callable[..., TrialRunner], tuple[nn.Module, Dataset]]:
        """Travel without what was computed: another process fills its own cache."""
        return partial(TrialRunner, engine=self._name, strict=self._strict), (self._model, self._data)

    def blocks(self, trials: Sequence[Trial], batch: int) -> list[Block]:
        """Cut trials into blocks as the engine likes them."""
        return self._engine.blocks(trials, batch)

    @property
    def exclusive(self) -> bool:
        """Whether the model holds a connection that only this process may use."""
        return hasattr(self._model, "offload_sites")

    def require_repeatable(self, rows: int) -> None:
        """Run up to ``rows`` images twice without a fault.

        Raises:
            InvalidConfig: the bits differ, so no difference could be blamed on a fault.
        """
        inputs = tuple(range(min(rows, len(self._data))))
        with torch.no_grad():
            if not bits.bit_equal(self._golden(inputs), self._compute_golden(inputs)):
                raise InvalidConfig("two clean runs of the model give different bits", hint="turn off whatever samples")

    def __call__(self, block: Block) -> list[Row]:
        """Return one row per trial of the block, in its order."""
        with torch.no_grad():
            if len(block) > 1 and all(trial.together for trial in block):
                return self._share(block)
            return [self._alone(trial) for trial in block]

    def _share(self, block: Block) -> list[Row]:
        """Run all trials in one forward, one row each; when that fails, find out which trial it was."""
        golden = self._golden(tuple(trial.input for trial in block))
        try:
            return self._forward(block, golden)
        except IntegrityError:
            return [self._alone(trial) for trial in block]
        except HoldfastError:
            raise
        except Exception:  # noqa: BLE001  a crash is an outcome; run alone to see whose
            return [self._alone(trial) for trial in block]

    def _alone(self, trial: Trial) -> Row:
        golden = self._golden((trial.input,))  # outside: a model that crashes without a fault is no outcome
        try:
            return self._forward((trial,), golden)[0]
        except IntegrityError:
            if self.exclusive:
                self._model.recover()  # type: ignore[operator]  # raises when the worker itself lied
            return _row(trial, Outcome.DETECTED, None, None, self._events(1)[0])
        except HoldfastError:
            raise
        except Exception as error:
            if self._strict:
                raise TrialError(
                    f"trial {trial.number} crashed: {type(error).__name__}: {error}",
                    hint="without strict it counts as DUE",
                ) from error
            return _row(trial, Outcome.DUE, None, None, 0)

    def _forward(self, block: Block, golden: Tensor) -> list[Row]:
        result = compare(golden, self._engine.faulty(block))
        events = self._events(len(block))
        return [
            _row(
                trial,
                result.outcome(row),
                float(result.max_ulp[row]),
                float(result.max_relative[row]),
                events[row],
            )
            for row, trial in enumerate(block)
        ]

    def _images(self, inputs: Sequence[int]) -> Tensor:
        return self._data.batch(torch.tensor(inputs))[0]

    def _compute_golden(self, inputs: tuple[int, ...]) -> Tensor:
        output = self._engine.golden(inputs)
        if not isinstance(output, Tensor) or output.dim() != 2:
            raise InvalidConfig("the model must return one tensor of shape (batch, classes)")
        if not torch.isfinite(output).all():
            raise InvalidConfig("the fault-free model gives NaN or infinity", hint="check weights and data")
        return output.clone()

    def _events(self, rows: int) -> list[int]:
        total = torch.zeros(rows, dtype=torch.int64)
        for guard in card(self._model).guards:
            if guard.events is not None and guard.events.numel() % rows == 0:
                total += guard.events.cpu().view(rows, -1).sum(1)
        return total.tolist()


def _row(trial: Trial, outcome: Outcome, ulp: float | None, relative: float | None, events: int) -> Row:
    if outcome is Outcome.DUE:
        ulp = relative = None
    return Row(trial.number, *trial.address, trial.input, outcome.value, ulp, relative, events)
