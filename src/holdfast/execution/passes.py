"""Forward passes of a campaign: without faults, with them, and once more after they have gone by."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from holdfast.errors import HoldfastError, InvalidConfig
from holdfast.execution.acted import counted, forget, guards_of
from holdfast.execution.engines import Batching, Engine, Hooks
from holdfast.execution.goldens import Golden, Goldens, proven, require_finite
from holdfast.execution.injection import STORED
from holdfast.execution.neighbours import APART, are_mixed, flowing
from holdfast.execution.plan import Block
from holdfast.execution.state import State
from holdfast.execution.tasks import Answer, Exam
from holdfast.execution.watchdog import Hang, Watchdog, deadline
from holdfast.models.census import pieces_of_guards
from holdfast.models.guard_kinds import AnyGuard
from holdfast.numerics import bits


class OtherShapeError(Exception):
    """A fault made the model return something of another shape, dtype or kind."""


@dataclass
class Passes:
    """Puts an exam to a model and remembers the golden answers."""

    model: nn.Module
    exam: Exam
    engine: Engine
    watchdog: Watchdog | None
    state: State
    golden: Goldens = field(init=False)
    guards: list[AnyGuard] = field(init=False)  # looked up once: a campaign neither adds nor removes any

    def __post_init__(self) -> None:
        self.golden, self.guards = Goldens(self._golden), guards_of(self.model)
        self._plain = Hooks(self.model, self.exam.batch)

    @property
    def exclusive(self) -> bool:
        """Whether the model holds a connection that only this process may use."""
        return hasattr(self.model, "offload_sites")

    @property
    def _is_plain(self) -> bool:
        """Whether passes are whole ones; an engine that chooses says what it has chosen."""
        return getattr(self.engine, "chosen", self.engine.name) == self._plain.name

    @cached_property
    def pieces(self) -> tuple[int | None, ...]:
        """In how many pieces a row of a whole pass lies in what each guard sees; None where that is not known."""
        return pieces_of_guards(self.model, self.exam.example, self.guards)

    @property
    def shares_guards(self) -> bool:
        """Whether rows can share a pass of the guards: it can be told afterwards for which row one of them acted."""
        return not self.guards or not self._is_plain or None not in self.pieces

    def lie(self, rows: int) -> tuple[int, ...] | None:
        """Return the pieces of each guard's rows in a pass of so many; None where they lie one after the other."""
        return tuple(lie or 1 for lie in self.pieces) if rows > 1 and self._is_plain else None

    @property
    def _is_batching(self) -> bool:
        """Whether golden bits are those of batches of one size, which only the engine itself gives."""
        return isinstance(self.engine, Batching) and not self._is_plain and self.engine.rows > 0

    def prove(self, inputs: tuple[int, ...]) -> str:
        """Ask for these inputs twice without a fault; return the digest of the answer.

        Raises:
            InvalidConfig: the bits differ; or passes leave something behind, which only ``hooks`` can put back.
        """
        if not self.exclusive:
            self.state.learn(lambda: self._plain.golden(inputs))
        if self.state.moving:
            self.engine.golden(inputs[:1])  # an engine that chooses does so now
            self.state.restore(self.state.moving)
        if self.state.moving and not self._is_plain:
            what = f"a pass of the model writes {min(self.state.moving)}"
            raise InvalidConfig(what, hint="use engine='hooks', which puts it back after every trial")
        return proven(inputs, self._clean(inputs, self._plain), self._clean(inputs, self._plain))

    def apart_because(self, at: str) -> str | None:
        """Return why trials at ``at`` may not share a pass; None where they may, or would not anyway."""
        if self.state.moving or not self._is_plain:
            return None
        sites, mark = flowing(self.model, self.exam, at), self.state.mark()
        try:
            with torch.no_grad():
                mixed = bool(sites) and are_mixed(self.model, self.exam, sites, self.watchdog)
        finally:
            self.state.restore(self.state.written(mark))
        return APART if mixed else None

    def faulty(self, block: Block, golden: Golden) -> Answer:
        """Return the answer in which row k met trial k; raises what the model raises.

        Raises:
            Hang: the passes overran their deadline.
            OtherShapeError: the output is none that can be compared.
        """
        forget(self.guards)
        with deadline(self._limit(golden)):
            return self._answer(block, golden, self.engine)

    def recovers(self, block: Block, golden: Golden) -> list[bool]:
        """Run the block again with only those faults that a second try meets; say of each row if it is golden again.

        What is stored stays flipped, what flowed has gone by.
        """
        engine = self.engine if self._is_batching else self._plain
        if not self._is_plain and not self._is_batching and len(block) > 1:  # these agree on every bit for one row only
            return [self.recovers((trial,), self.golden((trial.input,)))[0] for trial in block]
        kept = tuple(replace(trial, flips=tuple(f for f in trial.flips if f.site.kind in STORED)) for trial in block)
        try:
            with deadline(self._limit(golden)):
                answer = self._answer(kept, golden, engine)
        except HoldfastError:
            raise
        except (Exception, Hang):  # noqa: BLE001  whatever it is, it is there again
            return [False] * len(block)
        return [_same(golden.answer, answer, row) for row in range(len(block))]

    def _answer(self, block: Block, golden: Golden, engine: Engine) -> Answer:
        output = self._comparable(engine.faulty(block), golden)
        if golden.answer.text is None or not bool(torch.isfinite(output).flatten(1).all(1).any()):
            return Answer(output)  # nothing more is asked, or can be

        def again(tokens: Tensor) -> object:
            return Hooks(self.model, lambda _: tokens).faulty(block)

        return Answer(output, self.exam.continued(_inputs(block), again, golden.answer))

    def _comparable(self, output: object, golden: Golden) -> Tensor:
        try:
            found = self.exam.read(output)
        except InvalidConfig as error:
            raise OtherShapeError from error
        if found.shape != golden.answer.output.shape or found.dtype != golden.answer.output.dtype:
            raise OtherShapeError
        return found

    def _golden(self, inputs: tuple[int, ...]) -> Golden:
        forget(self.guards)
        began = time.monotonic()
        answer = self._clean(inputs, self.engine, restore=False)
        seconds, events = time.monotonic() - began, counted(self.guards, len(inputs), self.lie(len(inputs)))
        state = self.state.digest()
        self.state.restore(self.state.moving)
        return Golden(answer, seconds, events, state)

    def _clean(self, inputs: tuple[int, ...], engine: Engine, *, restore: bool = True) -> Answer:
        output = require_finite(self.exam.read(engine.golden(inputs)))
        answer = Answer(output, self.exam.continued(inputs, self.model, None))
        if restore:
            self.state.restore(self.state.moving)
        return answer

    def _limit(self, golden: Golden) -> float | None:
        return None if self.watchdog is None else self.watchdog.seconds(golden.seconds)


def _inputs(block: Block) -> tuple[int, ...]:
    return tuple(trial.input for trial in block)


def touched(block: Block) -> set[str]:
    """Return the names of the stored tensors that trials flip bits of; the injection itself puts those back."""
    flips = (flips for trial in block for flips in trial.flips)
    return {item.site.name.partition("/")[0] for item in flips if item.site.kind in STORED}


def _same(golden: Answer, answer: Answer, row: int) -> bool:
    if not bits.bit_equal(golden.output[row], answer.output[row]):
        return False
    return golden.text is None or (answer.text is not None and torch.equal(golden.text[row], answer.text[row]))
