"""A libLogHelper log as exposure and events.

Exposure is what the last timed line says (#IT, #SDC, or the time an #END carries), not the last #SDC: a quiet log
counts whole, and one without any event counts too. What passed between the last timed line and the end is bounded by
the logging interval, and kept apart as ``unseen``.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from holdfast._files import read_bytes
from holdfast.errors import UnreadableArtifact
from holdfast.evidence.digest import digest_bytes
from holdfast.soak.counts import BASE, Counts
from holdfast.soak.dispersion import Event, episodes
from holdfast.soak.log_lines import Line, Unread, is_timed, parse_line, understood

MAX_BYTES = 1 << 30
_STEP = 10  # iterations between #IT lines, where the log has too few to tell
_NAME = re.compile(r"(?P<began>\d{4}(?:_\d\d){5})_(?P<bench>.+)_ECC_(?P<ecc>ON|OFF)_(?P<host>.+)\.log")
_LAYER = re.compile(r"id_\d+_name_(.+?)_class_")  # the golden file of one extracted layer
_NAN = re.compile(r"output_t nan:(\d) inf:(\d)")


@dataclass(frozen=True, slots=True)
class Corruption:
    """One iteration with a wrong output."""

    iteration: int
    seconds: float  # of exposure when it came
    errors: int  # as the program counted them
    critical: bool  # a decision changed
    nonfinite: bool  # NaN or infinity came out
    signature: str  # digest of its #ERR lines; the number of its line where it has none


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """What one file tells.

    Attributes:
        ending: ``end``, ``due``, ``unknown`` as the supervisor says, or ``cut`` where the file just stops.
        dues: what the supervisor did, in its words; what followed an #ABORT or a crash of the program itself is no
            second event, and counted in ``restarts``.
        crashes: exceptions that the program wrote down before it died.
        fingerprint: digest of its beginning and its timed lines, the same in a supervisor's copy; empty without both.
        lost: errors that the running total (AccErr) counts and no #SDC line shows, as when datagrams get lost.
    """

    path: Path
    header: Mapping[str, str]
    bench: str
    host: str
    ecc: bool | None
    seconds: float
    unseen: float
    iterations: int
    corruptions: tuple[Corruption, ...]
    aborts: int
    dues: tuple[str, ...]
    restarts: int
    crashes: int
    ending: str
    lost: int
    unread: tuple[Unread, ...]
    fingerprint: str = ""

    @property
    def subject(self) -> str:
        """What ran, on which host, with ECC or without: what only compares with its like."""
        ecc = {True: "ECC ON", False: "ECC OFF", None: "ECC ?"}[self.ecc]
        return f"{_workload(self.header, self.bench)}, {ecc}, {self.host}"

    @property
    def arm(self) -> str:
        """``hardened`` or ``base``, or what the header calls it."""
        return self.header.get("arm") or ("hardened" if _hardened(self.header) else BASE)

    @property
    def counts(self) -> Counts:
        """The row that the analysis takes."""
        events = [Event(item.iteration, item.signature) for item in self.corruptions]
        return Counts(
            subject=self.subject,
            arm=self.arm,
            seconds=self.seconds,
            unseen=self.unseen,
            sdc=len(self.corruptions),
            critical=sum(item.critical for item in self.corruptions),
            nonfinite=sum(item.nonfinite for item in self.corruptions),
            due=len(self.dues) + self.crashes,
            session=self.path.name,
            episodes=len(episodes(events)),
        )


def _workload(header: Mapping[str, str], bench: str) -> str:
    """Name what ran. A layer's log says ``model=`` too, with a default that was never set: its golden file knows."""
    layer = _LAYER.search(header.get("goldpath", ""))
    return layer[1] if layer else header.get("model") or bench.removeprefix("PyTorch-")


def _hardened(header: Mapping[str, str]) -> bool:
    """Say whether the model was hardened; the golden file decides, since the flag is only read while it is made."""
    path = header.get("goldpath", "")
    if "hardening_" in path:
        return "hardening_None" not in path
    return header.get("hardenedid", "False") == "True"


def read_log(path: Path) -> Log:
    """Read one log file, local or the supervisor's.

    Raises:
        UnreadableArtifact: not a log of this format at all.
    """
    lines = [parse_line(raw, number) for number, raw in enumerate(_split(path), 1)]
    good = [line for line in lines if understood(line)]
    if not any(line.kind in ("HEADER", "BEGIN", "SERVER_HEADER", "SERVER_BEGIN") for line in good):
        raise UnreadableArtifact(f"{path} is no libLogHelper log: it has neither #HEADER nor #BEGIN")
    reader = _Reader(path)
    for line in good:
        reader.take(line)
    return reader.finish(tuple(line for line in lines if isinstance(line, Unread)))


def _split(path: Path) -> list[bytes]:
    return read_bytes(path, "log", limit=MAX_BYTES).split(b"\n")


@dataclass
class _Segment:
    """One life of the program: its accumulated time starts at zero."""

    seconds: float = 0.0
    done: int = 0  # iterations
    last: float | None = None  # local time of the last timed line
    kernel: list[float] = field(default_factory=list)
    printed: list[int] = field(default_factory=list)  # iterations of #IT lines
    errors: int = 0  # running total, as the program says
    shown: int = 0  # errors of the #SDC lines there are
    end: float | None = None
    began: float | None = None
    step: int = _STEP  # iterations between #IT lines, as the header says

    @property
    def unseen(self) -> float:
        """At most so many seconds passed after the last timed line: the next #IT was not reached, nor the end."""
        wall = [self.end - self.last] if self.end is not None and self.last is not None else []
        if not self.kernel:
            return max(0.0, self.end - self.began) if self.end is not None and self.began is not None else 0.0
        steps = [b - a for a, b in zip(self.printed, self.printed[1:], strict=False) if b > a]
        step = int(statistics.median(steps)) if steps else self.step
        following = -(-self.done // step) * step  # of the next #IT line
        return max(0.0, min([(following + 1 - self.done) * statistics.median(self.kernel), *wall]))


class _Reader:
    """Takes the lines of one file in order."""

    def __init__(self, path: Path) -> None:
        name = _NAME.fullmatch(path.name)
        self._path, self._bench = path, name["bench"] if name else path.stem
        self._host = name["host"] if name else "unknown host"
        self._ecc: bool | None = name["ecc"] == "ON" if name else None
        self._header: dict[str, str] = {}
        self._segments = [_Segment()]
        self._details: list[str] = []
        self._found: list[Corruption] = []
        self._aborts = self._crashes = self._restarts = 0
        self._aborted = self._crashed = False
        self._dues: list[str] = []
        self._ending = "cut"
        self._marks: list[str] = []

    def take(self, line: Line) -> None:
        """Take one line."""
        if self._ecc is None:
            self._ecc = line.ecc
        if is_timed(line):
            self._advance(line)
        if is_timed(line) or line.kind == "BEGIN":
            self._marks.append(f"{line.kind} {line.text}")
        handler = getattr(self, f"_on_{line.kind.lower()}", None)
        if handler is not None:
            handler(line)

    def _advance(self, line: Line) -> None:
        segment = self._segments[-1]
        if line.total_seconds < segment.seconds:
            return  # datagrams may come in another order; a new life begins with a header
        segment.seconds, segment.last = line.total_seconds, line.at
        segment.done = line.iteration + (line.kind == "IT")
        segment.kernel.append(line.kernel_seconds)
        if line.kind == "IT":
            segment.printed.append(line.iteration)

    def _on_header(self, line: Line) -> None:
        self._header = dict(line.fields)
        if self._segments[-1].kernel or self._segments[-1].end is not None:
            self._segments.append(_Segment())
            self._aborted, self._crashed, self._ending = False, False, "cut"
        told = self._header.get("iterationinterval", "")
        self._segments[-1].step = int(told) if told.isdigit() and int(told) else _STEP

    def _on_server_header(self, line: Line) -> None:
        self._header = self._header or dict(line.fields)

    def _on_begin(self, line: Line) -> None:
        self._segments[-1].began = line.at

    def _on_err(self, line: Line) -> None:
        self._details.append(line.text)

    def _on_sdc(self, line: Line) -> None:
        segment, details = self._segments[-1], self._details
        errors = int(line.fields["KerErr"])
        segment.shown += errors
        segment.errors = max(segment.errors, int(line.fields.get("AccErr") or 0))
        self._found.append(
            Corruption(
                iteration=line.iteration,
                seconds=sum(item.seconds for item in self._segments[:-1]) + line.total_seconds,
                errors=errors,
                critical=_critical(details),
                nonfinite=_nonfinite(details),
                signature=digest_bytes("\n".join(sorted(details)).encode()) if details else f"line {line.number}",
            )
        )
        self._details = []

    def _on_inf(self, line: Line) -> None:
        if "SETUP_ERROR" in line.text and not self._aborted:  # an #ABORT raises, too, and that is no crash
            self._crashes += not self._crashed
            self._crashed = True

    def _on_abort(self, line: Line) -> None:
        self._aborts += 1
        self._aborted = True

    def _on_end(self, line: Line) -> None:
        self._segments[-1].end, self._ending = line.at, "end"

    def _on_server_end(self, line: Line) -> None:
        self._close(line, "end")

    def _on_server_unknown(self, line: Line) -> None:
        self._close(line, "unknown")

    def _on_server_due(self, line: Line) -> None:
        """Count it, unless the program had ended itself, by #ABORT or by a crash that is counted already."""
        words = line.text.partition(" TIME:")[0].strip()
        if self._aborted or self._crashed or words == "DUT abort":
            self._restarts += 1
        else:
            self._dues.append(words)
        self._close(line, "due")

    def _close(self, line: Line, ending: str) -> None:
        segment = self._segments[-1]
        if segment.end is None and line.at is not None:
            segment.end = line.at + (0.0 if line.stamped else 1.0)  # whole seconds, rounded down
        self._ending = ending

    def _fingerprint(self) -> str:
        begins = [mark for mark in self._marks if mark.startswith("BEGIN")]
        return digest_bytes("\n".join(self._marks).encode()) if 0 < len(begins) < len(self._marks) else ""

    def finish(self, unread: tuple[Unread, ...]) -> Log:
        """Return what the lines told."""
        return Log(
            path=self._path, header=self._header, bench=self._bench, host=self._host, ecc=self._ecc,
            seconds=sum(item.seconds for item in self._segments),
            unseen=sum(item.unseen for item in self._segments),
            iterations=sum(item.done for item in self._segments),
            corruptions=tuple(self._found), aborts=self._aborts, dues=tuple(self._dues), restarts=self._restarts,
            fingerprint=self._fingerprint(), crashes=self._crashes, ending=self._ending, unread=unread,
            lost=sum(max(0, item.errors - item.shown) for item in self._segments),
        )  # fmt: skip


def _critical(details: Iterable[str]) -> bool:
    return any(text.startswith("critical") for text in details)


def _nonfinite(details: Iterable[str]) -> bool:
    return any("1" in found.groups() for text in details if (found := _NAN.search(text)) is not None)
