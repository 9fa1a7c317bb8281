"""What all fuzzers share: damage something good, use it, and compare what came out with what came out before.

A :class:`Target` says how; :func:`run` counts. A mutation must be refused with an error of ours, or leave everything
that is used as it was, to the bit. Any other exception is a bug, too, and is not caught.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from holdfast.errors import HoldfastError
from holdfast.seeds import derive


class ForgeryFound(Exception):
    """A mutation was accepted that must not be."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """Something good, and what may happen to it.

    Attributes:
        name: of the target.
        good: bytes, or the files of a folder by name.
        damage: returns a changed copy.
        use: verifies and returns all that a caller could then use, comparable by ``==``; raises one of our errors.
        same: whether accepted means that nothing used may differ. What a trusted key signed anew may say anything, and
            then only crashes are looked for.
    """

    name: str
    good: Any
    damage: Callable[[Random, Any], Any]
    use: Callable[[Any], Any]
    same: bool = True
    expected: Any = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "expected", self.use(self.good))


def try_one(target: Target, data: Any) -> str:
    """Return how ``data`` fared: the name of the error, or ``accepted``; raise :class:`ForgeryFound` if it is one."""
    try:
        used = target.use(data)
    except HoldfastError as error:
        f"{error} {error.hint}".encode()  # a message that cannot be printed would be a crash of its own
        return type(error).__name__
    if target.same and used != target.expected:
        raise ForgeryFound(f"{target.name}: {data!r}")
    return "accepted" if target.same else "accepted, as signed"


def mutation(target: Target, seed: int, index: int) -> Any:
    """Return mutation number ``index``, always the same one, so that whatever it breaks can be broken again."""
    return target.damage(Random(derive(seed, "fuzz", target.name, index).key), target.good)


def run(target: Target, mutations: int, *, seed: int = 0, seconds: float = float("inf")) -> dict[str, Any]:
    """Try ``mutations`` of them, or as many as ``seconds`` of wall time allow, and return the counts.

    Raises:
        ForgeryFound: one was accepted.
        Exception: whatever is no error of ours; a note says which mutation it was.
    """
    counts: Counter[str] = Counter()
    begun, deadline, index = time.process_time(), time.monotonic() + seconds, 0
    try:
        while index < mutations and time.monotonic() < deadline:
            data = mutation(target, seed, index)
            counts["unchanged" if data == target.good else try_one(target, data)] += 1
            index += 1
    except Exception as error:
        error.add_note(f"{target.name}, mutation {index} of seed {seed}")
        raise
    spent = round(time.process_time() - begun, 1)
    return {"target": target.name, "mutations": index, "forgeries": 0, "cpu_seconds": spent} | dict(
        sorted(counts.items())
    )
