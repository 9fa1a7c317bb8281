"""Counters of a gateway in the text form that Prometheus reads (exposition format 0.0.4)."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from threading import Lock
from typing import get_args

from holdfast.shielding.gateway.refusal import Outcome

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
REASONS = ("lied", "lost", "unreachable")


class Counter:
    """Counts events, by the value of at most one label.

    Args:
        name: of the series.
        what: help text.
        label: its name; empty for none.
        values: of the label, that are shown from the start.
    """

    def __init__(self, name: str, what: str, label: str = "", values: tuple[str, ...] = ("",)) -> None:
        self.name, self.what, self._label, self._lock = name, what, label, Lock()
        self._counts: dict[str, int] = dict.fromkeys(values, 0)

    def add(self, value: str = "", count: int = 1) -> None:
        """Count ``count`` more."""
        with self._lock:
            self._counts[value] = self._counts.get(value, 0) + count

    def count(self, value: str = "") -> int:
        """Return the count so far."""
        with self._lock:
            return self._counts.get(value, 0)

    def lines(self) -> Iterator[str]:
        """Yield the lines of the series."""
        yield from _head(self.name, self.what, "counter")
        with self._lock:
            counts = dict(self._counts)
        for value, count in counts.items():
            yield f"{self.name}{_labels(self._label, value)} {count}"


class Gauge:
    """A value that is read when it is asked for, by the value of at most one label."""

    def __init__(self, name: str, what: str, read: Callable[[], Mapping[str, float]], label: str = "") -> None:
        self.name, self.what, self._read, self._label = name, what, read, label

    def lines(self) -> Iterator[str]:
        """Yield the lines of the series."""
        yield from _head(self.name, self.what, "gauge")
        for value, number in self._read().items():
            yield f"{self.name}{_labels(self._label, value)} {_number(number)}"


class Histogram:
    """Counts seconds in cumulative buckets."""

    def __init__(self, name: str, what: str) -> None:
        self.name, self.what, self._lock = name, what, Lock()
        self._counts, self._sum = [0] * (len(BUCKETS) + 1), 0.0

    def add(self, seconds: float) -> None:
        """Count one observation."""
        with self._lock:
            self._counts[bisect_left(BUCKETS, seconds)] += 1
            self._sum += seconds

    def lines(self) -> Iterator[str]:
        """Yield the lines of the series."""
        yield from _head(self.name, self.what, "histogram")
        with self._lock:
            counts, total = list(self._counts), self._sum
        so_far = 0
        for bound, count in zip((*BUCKETS, math.inf), counts, strict=True):
            so_far += count
            yield f"{self.name}_bucket{_labels('le', _number(bound))} {so_far}"
        yield f"{self.name}_sum {_number(total)}"
        yield f"{self.name}_count {so_far}"


class Metrics:
    """Everything that a gateway counts."""

    def __init__(self) -> None:
        self.requests = Counter("holdfast_requests_total", "Requests by how they ended.", "outcome", get_args(Outcome))
        self.samples = Counter("holdfast_samples_total", "Inputs answered.")
        self.retries = Counter("holdfast_retries_total", "Requests given to another worker after one failed.")
        self.failures = Counter("holdfast_worker_failures_total", "Failures of workers.", "reason", REASONS)
        self.seconds = Histogram("holdfast_request_seconds", "Seconds from arrival to answer.")
        self._series: list[Counter | Gauge | Histogram] = [self.requests, self.samples, self.retries, self.failures]
        self._series.append(self.seconds)

    def gauge(self, name: str, what: str, read: Callable[[], Mapping[str, float]], label: str = "") -> None:
        """Add a value that is read when it is asked for."""
        self._series.append(Gauge(name, what, read, label))

    def text(self) -> str:
        """Return all series."""
        return "\n".join(line for series in self._series for line in series.lines()) + "\n"


def _head(name: str, what: str, kind: str) -> tuple[str, str]:
    return f"# HELP {name} {what}", f"# TYPE {name} {kind}"


def _labels(name: str, value: str) -> str:
    if not name:
        return ""
    escaped = value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
    return f'{{{name}="{escaped}"}}'


def _number(value: float) -> str:
    if math.isinf(value):
        return "+Inf"
    return str(int(value)) if float(value).is_integer() else repr(float(value))
