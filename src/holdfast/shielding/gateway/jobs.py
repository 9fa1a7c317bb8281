"""Requests on their way: each ends exactly once, and only so many wait."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from threading import Condition, Lock

from torch import Tensor

from holdfast.shielding.gateway.refusal import Outcome, Refused

Settled = Callable[["Job", Outcome], None]


class Job:
    """One request; the first of answer, error and time-out is what it ends with.

    Args:
        inputs: (batch, *sample).
        timeout: seconds from now until it is too late.
        settled: called once with how it ended, before anybody learns the result.

    Attributes:
        future: of the outputs, or of Refused.
        attempts: workers that it was tried on.
    """

    def __init__(self, inputs: Tensor, timeout: float, settled: Settled) -> None:
        self.inputs, self.arrived, self.attempts = inputs, time.monotonic(), 0
        self.future: Future[Tensor] = Future()
        self._timeout, self._settled, self._lock, self._over = timeout, settled, Lock(), False

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self._over

    @property
    def left(self) -> float:
        """Seconds left; not positive when it is too late."""
        return self.arrived + self._timeout - time.monotonic()

    def answer(self, outputs: Tensor) -> bool:
        """End with ``outputs``; return False if it had ended already."""
        if self._end("answered"):
            self.future.set_result(outputs)
            return True
        return False

    def refuse(self, refused: Refused) -> bool:
        """End with an error; return False if it had ended already."""
        if self._end(refused.outcome):
            self.future.set_exception(refused)
            return True
        return False

    def expire(self) -> bool:
        """End because it is too late; return False if it had ended already."""
        return self.refuse(
            Refused(
                f"no answer within {self._timeout:g} seconds",
                hint="try again, or send fewer inputs at a time",
                outcome="timed-out",
            )
        )

    def wait(self) -> Tensor:
        """Block until it ends, for its time-out at most.

        Raises:
            Refused: it ended with an error.
        """
        try:
            return self.future.result(max(self.left, 0.0))
        except TimeoutError:
            self.expire()
            return self.future.result()  # an answer may have come between the two lines; then it counts
        finally:
            del self  # or an error, its traceback and the job with its inputs would hold each other

    def _end(self, outcome: Outcome) -> bool:
        with self._lock:
            if self._over:
                return False
            self._over = True
        self._settled(self, outcome)
        return True


class Waiting:
    """The bounded queue of a pool.

    Args:
        most: jobs that may wait.
    """

    def __init__(self, most: int) -> None:
        self._most, self._jobs, self._change = most, deque[Job](), Condition()

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def full(self) -> bool:
        """Whether no more may wait."""
        with self._change:
            return self._is_full()

    def _is_full(self) -> bool:
        """Forget what ended while it waited, if that matters."""
        if len(self._jobs) >= self._most:
            self._jobs = deque(job for job in self._jobs if not job.over)
        return len(self._jobs) >= self._most

    def put(self, job: Job) -> bool:
        """Add a job at the end; return False if no more may wait."""
        with self._change:
            if self._is_full():
                return False
            self._jobs.append(job)
            self._change.notify()
            return True

    def put_back(self, job: Job) -> None:
        """Add a job that was taken before at the front, whatever the bound: it waited already."""
        with self._change:
            self._jobs.appendleft(job)
            self._change.notify()

    def take(self, timeout: float, most: int = 1) -> list[Job]:
        """Return the next job and those behind it that can be computed with it; none within ``timeout`` seconds: [].

        Args:
            most: inputs to compute together. A job that has more is taken alone, and so is one that was tried before:
                whatever went wrong then goes wrong for nobody else.
        """
        with self._change:
            if not self._jobs:
                self._change.wait(timeout)
            taken = [self._jobs.popleft()] if self._jobs else []
            while self._jobs and _together([*taken, self._jobs[0]], most):
                taken.append(self._jobs.popleft())
            return taken

    def empty(self) -> list[Job]:
        """Remove and return all jobs."""
        with self._change:
            jobs = list(self._jobs)
            self._jobs.clear()
            return jobs


def _together(jobs: list[Job], most: int) -> bool:
    if any(job.attempts for job in jobs) or len({job.inputs.shape[1:] for job in jobs}) > 1:
        return False
    return sum(len(job.inputs) for job in jobs) <= most
