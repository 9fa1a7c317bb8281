"""What a worker process was doing when it died: one byte per trial, in memory that outlives it.

A pass that hangs in native code cannot be interrupted, only its process ended. The worker that takes over reads here
which trials shared the fatal pass, runs those one by one, and calls the one that is fatal alone a hang.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import contextmanager

from holdfast.execution.plan import Block, Trial

_IDLE, _SHARED, _ALONE = 0, 1, 2


class Board:
    """Marks trials 0 .. ``trials`` - 1; made before the workers are forked, which then share it."""

    def __init__(self, trials: int) -> None:
        self._marks = mmap.mmap(-1, max(1, trials))

    @contextmanager
    def running(self, block: Block) -> Iterator[None]:
        """Mark the trials of a pass while it runs; only the death of the process leaves them marked."""
        before = [self._marks[trial.number] for trial in block]
        for trial in block:
            self._marks[trial.number] = _SHARED if len(block) > 1 else _ALONE
        try:
            yield
        finally:
            for trial, mark in zip(block, before, strict=True):
                self._marks[trial.number] = mark

    def was_fatal(self, trial: Trial) -> bool:
        """Say whether a worker died while it ran this trial and no other."""
        return self._marks[trial.number] == _ALONE

    def is_suspect(self, block: Block) -> bool:
        """Say whether a worker died while it ran any of these."""
        return any(self._marks[trial.number] != _IDLE for trial in block)
