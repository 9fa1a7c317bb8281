"""Where a soak run writes: logs in the lines of libLogHelper, the same and more as JSON lines, and datagrams.

Only the watchdog writes, so that a log outlives the worker that it speaks about and a worker cannot corrupt it. Every
line is on its way to the disk before the next is made.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from holdfast._files import make_folder
from holdfast.errors import InvalidConfig, StorageError, UsageError
from holdfast.evidence import canonical
from holdfast.soak.log_lines import ECC_OFF, ECC_ON, begin_line, file_name, header_line

EVENTS = "events.jsonl"
_DATAGRAM = 1024  # bytes, of which one tells ECC
_SAFE = re.compile(r"[^A-Za-z0-9.+-]+")


class Mirror:
    """Sends every line to a supervisor, one datagram each: a byte for ECC, then the text; nobody waits for an answer.

    Raises:
        UsageError: not ``udp:HOST:PORT``.
    """

    def __init__(self, where: str, *, ecc: bool) -> None:
        found = re.fullmatch(r"udp:(.+):(\d{1,5})", where)
        if found is None or not 0 < int(found[2]) < 1 << 16:
            raise UsageError(f"{where!r} is no mirror", hint="write udp:HOST:PORT")
        self._ecc, self.lost = ECC_ON if ecc else ECC_OFF, 0
        host = found[1].strip("[]")
        try:
            family, kind, _, _, address = socket.getaddrinfo(host, int(found[2]), type=socket.SOCK_DGRAM)[0]
        except OSError as error:
            raise UsageError(f"cannot resolve {host}: {error.strerror or error}") from error
        self._to, self._socket = address, socket.socket(family, kind)

    def send(self, line: str) -> None:
        """Send one line; what the network refuses is counted."""
        try:
            self._socket.sendto((self._ecc + line.encode("ascii", "replace"))[:_DATAGRAM], self._to)
        except OSError:
            self.lost += 1

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


class LogFile:
    """One log: a life of one bench on one device."""

    def __init__(self, path: Path, mirror: Mirror | None) -> None:
        self.path, self._mirror = path, mirror
        try:
            self._file = path.open("x", encoding="utf-8")
        except OSError as error:
            raise StorageError(f"cannot write {path}: {error.strerror or error}") from error

    def line(self, text: str) -> None:
        """Write one line."""
        flat = " ".join(text.split("\n"))
        try:
            self._file.write(f"{flat}\n")
            self._file.flush()
        except OSError as error:
            raise StorageError(
                f"cannot write {self.path}: {error.strerror or error}", hint="what was written before still stands"
            ) from error
        if self._mirror is not None:
            self._mirror.send(flat)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Journal:
    """All logs of one run, in ``folder``; a context manager."""

    def __init__(self, folder: Path | str, *, ecc: bool = False, mirror: str | None = None, host: str = "") -> None:
        self.folder, self.ecc = make_folder(folder), ecc
        self.host = _SAFE.sub("-", host or socket.gethostname()) or "host"
        self._mirror = None if mirror is None else Mirror(mirror, ecc=ecc)
        self._events = (self.folder / EVENTS).open("ab")

    def log(self, bench: str, device: str, header: Mapping[str, object]) -> LogFile:
        """Open a new log; a second that is already taken is followed by the next that is free.

        Raises:
            InvalidConfig: a header whose key or value holds white space, which no reader could take apart.
        """
        text = " ".join(f"{key}={value}" for key, value in header.items())
        if len(text.split(" ")) != len(header):
            raise InvalidConfig("the header of a log has no spaces in its values")
        now = datetime.now().replace(microsecond=0)
        while (path := self.folder / self._name(now, bench, device)).exists():
            now += timedelta(seconds=1)
        log = LogFile(path, self._mirror)
        log.line(header_line(f"framework:PyTorch {text}"))
        log.line(begin_line(now))
        return log

    def _name(self, now: datetime, bench: str, device: str) -> str:
        return file_name(now, f"holdfast-{_SAFE.sub('-', bench)}", self.ecc, f"{self.host}.{device}")

    def event(self, kind: str, **what: Any) -> None:
        """Append one JSON line."""
        value = {"time": datetime.now().astimezone().isoformat(timespec="milliseconds"), "kind": kind, **what}
        self._events.write(canonical.dumps(value) + b"\n")
        self._events.flush()

    @property
    def lost(self) -> int:
        """Datagrams that the network refused."""
        return 0 if self._mirror is None else self._mirror.lost

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self._events.close()
        if self._mirror is not None:
            self._mirror.close()
