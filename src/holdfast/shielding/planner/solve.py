"""Exact solvers: the best placement of nodes under a memory budget, and of a chain under a deadline.

Both are dynamic programs that keep every state no other state beats (the Pareto front), so they find the optimum of the
stated costs without rounding anything to a grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from holdfast.errors import InvalidConfig


@dataclass(frozen=True, slots=True)
class Option:
    """One way to compute a node."""

    word: str
    seconds: float
    memory: int  # bytes that the trusted world holds for it


@dataclass(frozen=True, slots=True)
class _State:
    cost: float
    spent: float
    word: str
    before: _State | None


def fastest(options: Sequence[Sequence[Option]], memory: int | None, *, held: int = 0) -> tuple[str, ...]:
    """Return one word per node: least total seconds with at most ``memory`` bytes in all.

    Args:
        options: ways to compute each node.
        memory: bytes, or None for as many as it takes.
        held: bytes that are taken whatever is chosen.

    Raises:
        InvalidConfig: no choice fits; the message says how much the smallest needs.
    """
    if memory is None:
        return tuple(min(ways, key=lambda way: way.seconds).word for ways in options)
    need = held + sum(min(way.memory for way in ways) for ways in options)
    if need > memory:
        raise over_budget(need, memory)
    left, front = need - held, [_State(0.0, 0.0, "", None)]
    for ways in options:
        left -= min(way.memory for way in ways)
        grown = [
            _State(state.cost + way.seconds, state.spent + way.memory, way.word, state)
            for state in front
            for way in ways
            if held + state.spent + way.memory + left <= memory
        ]
        front = _unbeaten(grown)
    return _words(min(front, key=lambda state: state.cost))


def over_budget(need: int, memory: int) -> InvalidConfig:
    """Return the error for a plan that does not fit."""
    return InvalidConfig(
        f"the trusted world needs {need:,} bytes and may use {memory:,}",
        hint="raise the budget, or choose a rule or demands that keep less in the trusted world",
    )


def least_exposed(
    seconds: Sequence[tuple[float, float]],
    risks: Sequence[float],
    moves: Sequence[float],
    deadline: float,
) -> tuple[bool, ...]:
    """Return which stages of a chain to protect: the least sum of risks of the others, in time.

    This is the choice of AegisDNN (Xiang et al., RTSS 2021): every stage runs in the trusted world or outside, where
    it keeps its risk of silent data corruption; changing worlds before a stage takes time. The first input and the
    last output are in the trusted world.

    Args:
        seconds: of each stage, outside and inside.
        risks: of each stage when outside.
        moves: seconds to change worlds before each stage, and after the last: one more than stages.
        deadline: seconds in all.

    Raises:
        InvalidConfig: even the fastest choice is late.
    """
    fronts: dict[bool, list[_State]] = {True: [_State(0.0, 0.0, "", None)], False: []}
    for (outside, inside), risk, move in zip(seconds, risks, moves, strict=False):
        grown: dict[bool, list[_State]] = {True: [], False: []}
        for here in (True, False):
            for was, states in fronts.items():
                time = (inside if here else outside) + (move if was != here else 0.0)
                extra = 0.0 if here else risk
                grown[here] += [_State(s.cost + extra, s.spent + time, "in" if here else "out", s) for s in states]
        fronts = {here: _unbeaten(states) for here, states in grown.items()}
    done = [*fronts[True], *(_State(s.cost, s.spent + moves[-1], s.word, s.before) for s in fronts[False])]
    in_time = [state for state in done if state.spent <= deadline]
    if not in_time:
        least = min(state.spent for state in done)
        raise InvalidConfig(
            f"no placement meets a deadline of {deadline:g} s: the fastest takes {least:.4g} s",
            hint="allow more time, or plan for a faster machine",
        )
    return tuple(word == "in" for word in _words(min(in_time, key=lambda state: (state.cost, state.spent))))


def _unbeaten(states: list[_State]) -> list[_State]:
    """Keep the states that no other state beats in both cost and what it has spent."""
    kept: list[_State] = []
    for state in sorted(states, key=lambda state: (state.spent, state.cost)):
        if not kept or state.cost < kept[-1].cost:
            kept.append(state)
    return kept


def _words(state: _State) -> tuple[str, ...]:
    words = []
    while state.before is not None:
        words.append(state.word)
        state = state.before
    return tuple(reversed(words))
