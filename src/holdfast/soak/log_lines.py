"""One line of a libLogHelper log, read and written: the text form that radiation experiments share.

A line is ``#KIND text``. A supervisor's file has a local time in milliseconds before it, a captured datagram one byte:
0x0E with ECC, 0x0D without. Lines are parts of a real experiment: one cut short by a power cycle is no reason to
give up a night of beam time, and no reason to guess either. What cannot be read is returned as such.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeGuard

KINDS = ("HEADER", "BEGIN", "IT", "ERR", "SDC", "INF", "CINF", "ABORT", "END", "SERVER_HEADER", "SERVER_BEGIN",
         "SERVER_END", "SERVER_DUE", "SERVER_UNKNOWN")  # fmt: skip
ECC_ON, ECC_OFF = b"\x0e", b"\x0d"
_LINE = re.compile(
    r"(?:(?P<stamp>\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d[.,]\d{3}) )?#(?P<kind>[A-Z_]+)[: ]?(?P<text>.*)", re.ASCII
)
_PAIR = re.compile(r"(\w+)[:=](\S*)")
_COUNT = re.compile(r"\d+", re.ASCII)
_TIMES = (
    re.compile(r"Y:(\d+) M:(\d+) D:(\d+) T(?:ime|IME):(\d+):(\d+):(\d+)", re.ASCII),  # of a beginning
    re.compile(r"TIME:(\d{4})-(\d\d)-(\d\d)-(\d\d)-(\d\d)-(\d\d)", re.ASCII),  # of an end
)


@dataclass(frozen=True, slots=True)
class Line:
    """One line that was understood; ``fields`` holds its ``key:value`` and ``key=value`` parts.

    ``at`` is the local time in seconds that its stamp or its text tells, as far as there is one.
    """

    number: int
    kind: str
    text: str
    at: float | None = None
    stamped: bool = False
    ecc: bool | None = None
    fields: Mapping[str, str] = field(default_factory=dict)

    @property
    def iteration(self) -> int:
        """The iteration that an #IT or #SDC line names."""
        found = _COUNT.match(self.text) if self.kind == "IT" else None
        return int(found[0] if found else self.fields["Ite"])

    @property
    def kernel_seconds(self) -> float:
        """Of this iteration."""
        return float(self.fields["KerTime"])

    @property
    def total_seconds(self) -> float:
        """Of all iterations so far: the exposure."""
        return float(self.fields["AccTime"])


@dataclass(frozen=True, slots=True)
class Unread:
    """A line that says nothing, or half of something."""

    number: int
    text: str  # its beginning
    why: str


def parse_line(raw: bytes, number: int = 0) -> Line | Unread | None:
    """Read one line without its line feed; None for an empty one."""
    ecc = {ECC_ON: True, ECC_OFF: False}.get(raw[:1])
    text = (raw if ecc is None else raw[1:]).decode("utf-8", "replace").strip("\r\0 ")
    if not text:
        return None
    found = _LINE.fullmatch(text)
    if found is None or found["kind"] not in KINDS:
        return Unread(number, text[:80], "no line of this format")
    stamp, kind, words = found["stamp"], found["kind"], found["text"]
    line = Line(number, kind, words, _time(stamp, words), stamp is not None, ecc, dict(_PAIR.findall(words)))
    return line if _whole(line) else Unread(number, text[:80], f"an incomplete #{kind}")


def is_timed(line: Line) -> bool:
    """Say whether a line tells the exposure so far; #INF lines may, too."""
    return line.kind in ("IT", "SDC") or (line.kind == "INF" and _has_numbers(line, ()))


def understood(line: Line | Unread | None) -> TypeGuard[Line]:
    """Say whether a line is one."""
    return isinstance(line, Line)


def _whole(line: Line) -> bool:
    """Say whether what a timed line must tell is there."""
    if line.kind not in ("IT", "SDC"):
        return True
    return _has_numbers(line, ("KerErr",) if line.kind == "SDC" else ())


def _has_numbers(line: Line, counts: Sequence[str]) -> bool:
    """Say whether the times of a line are finite numbers, and ``counts`` (and AccErr, if there) whole ones."""
    whole = [*counts, *(["AccErr"] if line.fields.get("AccErr") else [])]
    try:
        numbers = [line.iteration, line.kernel_seconds, line.total_seconds, *(int(line.fields[key]) for key in whole)]
    except (KeyError, ValueError):
        return False
    return all(0 <= item < float("inf") for item in numbers)


def _time(stamp: str | None, text: str) -> float | None:
    if stamp is not None:
        return _from_parts([int(part) for part in _COUNT.findall(stamp)])
    for pattern in _TIMES:
        if (found := pattern.search(text)) is not None:
            return _from_parts([int(part) for part in found.groups()])
    return None


def _from_parts(parts: list[int]) -> float | None:
    """Count seconds of a wall clock without a zone, of which only differences mean anything; a seventh part is ms."""
    year, month, day, hour, minute, second, *milliseconds = parts
    try:
        local = datetime(year, month, day, hour, minute, second)
    except (ValueError, OverflowError):  # a date that does not exist
        return None
    return (local - datetime(1970, 1, 1)).total_seconds() + sum(milliseconds) / 1000


def header_line(text: str) -> str:
    """Return the first line of a log."""
    return f"#HEADER {text}"


def begin_line(now: datetime) -> str:
    """Return the second line of a log."""
    return now.strftime("#BEGIN Y:%Y M:%m D:%d Time:%H:%M:%S")


def iteration_line(iteration: int, kernel: float, total: float) -> str:
    """Return the line that one of every few iterations gets; times in seconds."""
    return f"#IT {iteration} KerTime:{kernel:.7f} AccTime:{total:.7f}"


def sdc_line(iteration: int, kernel: float, total: float, errors: int, all_errors: int) -> str:
    """Return the line that ends the #ERR lines of an iteration."""
    times = f"KerTime:{kernel:.7f} AccTime:{total:.7f}"
    return f"#SDC Ite:{iteration} {times} KerErr:{errors} AccErr:{all_errors}"


def file_name(now: datetime, bench: str, ecc: bool, host: str) -> str:
    """Return the name of a log file."""
    return f"{now:%Y_%m_%d_%H_%M_%S}_{bench}_ECC_{'ON' if ecc else 'OFF'}_{host}.log"
