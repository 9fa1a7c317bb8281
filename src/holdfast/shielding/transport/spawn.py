"""Starting, reaching and stopping the untrusted worker."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Sequence
from pathlib import Path

from holdfast.errors import InvalidConfig, WorkerUnreachable

_POLL = 0.02  # seconds between attempts to connect
_PEER = "the worker"


class SpawnedWorker:
    """A worker process of our own, with its socket in a private folder; gone when this object or the program ends.

    Args:
        options: extra command-line arguments, e.g. ``("--fault", "bit-flip")`` for one that lies.
        once: let it end after its first session.
    """

    def __init__(self, options: Sequence[str] = (), *, once: bool = True) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="holdfast-"))  # mkdtemp makes it 0700
        self.path = self._folder / "worker.sock"
        command = [sys.executable, "-m", "holdfast.services.worker", "--socket", str(self.path), *options]
        if once:
            command.append("--once")
        with (self._folder / "stderr").open("wb") as log:
            self.process = subprocess.Popen(  # noqa: S603 - our own module under our own interpreter
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log
            )
        self.close = weakref.finalize(self, _stop, self.process, self._folder)

    def connect(self, timeout: float) -> socket.socket:
        """Wait until the process listens, and connect.

        Raises:
            WorkerUnreachable: it exits, or is not ready within ``timeout`` seconds.
        """
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if (code := self.process.poll()) is not None:
                raise WorkerUnreachable(
                    f"the worker exited with code {code} before it listened", hint=self._last_words()
                )
            if self.path.exists() and (stream := _try_connect(self.path)) is not None:
                return stream
            time.sleep(_POLL)
        raise WorkerUnreachable(
            f"the worker did not listen within {timeout:g} seconds", hint="allow more start-up time"
        )

    def _last_words(self) -> str:
        lines = (self._folder / "stderr").read_text(errors="replace").strip().splitlines()
        return f"it said: {lines[-1].strip()}" if lines else "it said nothing"


def _stop(process: subprocess.Popen[bytes], folder: Path) -> None:
    if process.poll() is None:
        process.kill()
    process.wait()
    shutil.rmtree(folder, ignore_errors=True)


def _try_connect(path: Path) -> socket.socket | None:
    stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        stream.connect(str(path))
    except OSError:
        stream.close()
        return None
    return stream


def dial(address: str) -> socket.socket:
    """Connect to a worker that runs elsewhere, ``unix:PATH``.

    Raises:
        InvalidConfig: another kind of address.
        WorkerUnreachable: nobody listens there.
    """
    scheme, _, path = address.partition(":")
    if scheme != "unix" or not path:
        raise InvalidConfig(f"a worker is 'spawn' or 'unix:PATH', not {address!r}")
    stream = _try_connect(Path(path))
    if stream is None:
        raise WorkerUnreachable(
            f"no worker listens on {path}",
            hint=f"start one: holdfast serve worker --socket {path}",
        )
    return stream
