"""A deadline for one forward pass: a fault can turn a loop into one that never ends.

The deadline is ten times what the fault-free pass took, and at least ten seconds, as in NVBitFI (Tsai et al., DSN
2021). An alarm interrupts the pass between two steps of Python. A single native call that never returns can only be
ended with its process: a worker process of a campaign is ended by the kernel, after three deadlines of processor time.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from holdfast.errors import InvalidConfig

_STARVED = 10  # deadlines of waiting that a pass without processor time is given


_MERCY = 3  # deadlines of processor time after which a worker that does not heed the alarm dies
ENDED = -int(getattr(signal, "SIGVTALRM", 0))  # exit code of a worker that was ended so


class _Here:
    mortal = False  # whether this process may be ended


class Hang(BaseException):  # not an Exception: a model that catches those must not catch this
    """The pass overran its deadline."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watchdog:
    """When a pass counts as hanging.

    Attributes:
        factor: times the duration of the fault-free pass over the same inputs.
        floor: seconds that every pass is given.
    """

    factor: float = 10.0
    floor: float = 10.0

    def __post_init__(self) -> None:
        if self.factor < 1 or self.floor <= 0:
            raise InvalidConfig("a deadline is at least once the fault-free pass, and above 0 s", hint="Watchdog()")

    def seconds(self, golden: float) -> float:
        """Return the deadline of a pass whose fault-free twin took ``golden`` seconds."""
        return max(self.floor, self.factor * golden)


@contextmanager
def deadline(seconds: float | None) -> Iterator[None]:
    """Raise :class:`Hang` inside the block once it has run for ``seconds``; None sets no deadline.

    A busy machine is no hang: as long as the process got less processor time than that, it is given ten times as long.
    An alarm that was set before is set again afterwards. Only the main thread of a process can be interrupted; in
    another thread the block runs without a deadline.
    """
    if seconds is None or not can_interrupt():
        yield
        return
    began, spent = time.monotonic(), time.process_time()

    def ring(_: int, __: FrameType | None) -> None:
        starved = time.process_time() - spent < seconds
        if starved and time.monotonic() - began < _STARVED * seconds:
            return  # the alarm rings again
        raise Hang

    before = signal.signal(signal.SIGALRM, ring)
    left, interval = signal.setitimer(signal.ITIMER_REAL, seconds, max(seconds / 4, 1e-3))
    if _Here.mortal:
        signal.setitimer(signal.ITIMER_VIRTUAL, _MERCY * seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGALRM, before)
        if left:  # whoever had set it waits for it, late rather than never
            signal.setitimer(signal.ITIMER_REAL, max(left - (time.monotonic() - began), 1e-3), interval)


def become_mortal() -> None:
    """Let the kernel end this process where a pass neither returns nor heeds the alarm; for worker processes only."""
    _Here.mortal = True


def can_interrupt() -> bool:
    """Say whether a pass that runs here can be interrupted: on the main thread, and not on Windows."""
    return hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()
