"""Starting, reaching and stopping the untrusted worker."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from holdfast.errors import IntegrityError, InvalidConfig, MissingDevice, WorkerUnreachable
from holdfast.shielding.own_process import OwnProcess
from holdfast.shielding.transport.shared import offer
from holdfast.shielding.transport.stream import Connection
from holdfast.shielding.transport.wire import Channel

RING_BYTES = 2**30  # of each direction; only pages that messages touch cost memory
_KEPT = (
    "PATH",
    "LD_LIBRARY_PATH",
    "HOME",
    "LANG",
    "TZ",
    "TMPDIR",
)  # what a worker needs of our environment: no secrets
_KEPT_KINDS = ("LC_", "OMP_", "MKL_", "KMP_", "ATEN_", "DNNL_", "ONEDNN_", "TORCH_", "CUDA_", "TRITON_", "PYTHON")
KERNEL_FOLDER = "TRITON_CACHE_DIR"  # where Triton stores what it compiles
_POLL = 0.02  # seconds between attempts to connect
_PEER = "the worker"
_NOBODY = "nobody"
_CREDENTIALS = struct.Struct("3i")


class SpawnedWorker:
    """A worker process of our own, with its socket in a private folder; gone when this object or the program ends.

    Where shared memory exists it is used, and where we are root the worker gives its rights up for those of ``nobody``
    before it listens: two processes, two users. It runs in the root folder with little of our environment, which may
    hold secrets, and can gain no rights by running other programs.

    Args:
        options: extra command-line arguments, e.g. ``("--fault", "bit-flip")`` for one that lies.
        once: let it end after its first session.
    """

    def __init__(self, options: Sequence[str] = (), *, once: bool = True) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="holdfast-"))  # mkdtemp makes it 0700
        self.path = self._folder / "worker.sock"
        self.shared = hasattr(os, "memfd_create")
        command = [sys.executable, "-P", "-m", "holdfast.services.worker", "--socket", str(self.path), *options]
        command += ["--parent", str(os.getpid())]  # or it would wait for ever for one that was killed
        command += ["--shared"] * self.shared + ["--once"] * once
        kernels: Path | None = None
        if os.geteuid() == 0 and "--user" not in options:
            command += ["--user", _NOBODY]
            if "--device" in options and KERNEL_FOLDER not in os.environ:
                kernels = kernel_folder(_NOBODY)
        with (self._folder / "stderr").open("wb") as log:
            self.process = subprocess.Popen(  # noqa: S603 - our own module under our own interpreter
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                env=environment() | ({} if kernels is None else {KERNEL_FOLDER: str(kernels)}),
                cwd="/",
            )
        self.close = OwnProcess("a worker").finalize(self, _stop, self.process, self._folder, kernels)

    @property
    def address(self) -> str:
        """Where :func:`dial` finds it."""
        return f"{'shared' if self.shared else 'unix'}:{self.path}"

    def connect(self, timeout: float, *, ring: int = RING_BYTES) -> Channel:
        """Wait until the process listens, and connect to it and to no other.

        Raises:
            WorkerUnreachable: it exits, or is not ready within ``timeout`` seconds.
            IntegrityError: another process listens there.
        """
        stream = self._wait(timeout)
        # where the kernel does not say who listens, the folder's mode alone keeps others out
        process = credentials(stream)[0] if self.shared else self.process.pid
        if process != self.process.pid:
            stream.close()
            raise IntegrityError(f"process {process} listens where worker {self.process.pid} should", hint="a relay?")
        return _channel(stream, shared=self.shared, timeout=timeout, ring=ring)

    def _wait(self, timeout: float) -> socket.socket:
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if (code := self.process.poll()) is not None:
                raise WorkerUnreachable(
                    f"the worker exited with code {code} before it listened", hint=self._last_words()
                )
            found = self.path.exists() and _try_connect(self.path, shared=self.shared, until=deadline)
            if found:
                return found
            time.sleep(_POLL)
        raise WorkerUnreachable(
            f"the worker did not listen within {timeout:g} seconds", hint="allow more start-up time"
        )

    def _last_words(self) -> str:
        with contextlib.suppress(FileNotFoundError):  # of a worker that was closed meanwhile
            lines = (self._folder / "stderr").read_text(errors="replace").strip().splitlines()
            return f"it said: {lines[-1].strip()}" if lines else "it said nothing"
        return "it was closed while it started"


def environment() -> dict[str, str]:
    """Return what of this process's environment a worker is given: where code lies and how it computes, no more."""
    kept = {name: value for name, value in os.environ.items() if name in _KEPT or name.startswith(_KEPT_KINDS)}
    for name in kept.keys() & {"PYTHONPATH", "LD_LIBRARY_PATH"}:  # the worker runs in another folder
        kept[name] = os.pathsep.join(str(Path(part).resolve()) for part in kept[name].split(os.pathsep))
    return kept


def kernel_folder(user: str) -> Path:
    """Make a folder in which ``user`` alone stores the kernels that he compiles; needs root.

    Triton's own choice is the home of whoever started the process. Another user cannot write there; and if he could,
    the files that he put there would be run by us some day.

    Raises:
        InvalidConfig: no such user, or we are not root.
    """
    try:
        entry = pwd.getpwuid(int(user)) if user.isdigit() else pwd.getpwnam(user)
    except KeyError as error:
        raise InvalidConfig(f"there is no user {user!r} here") from error
    folder = Path(tempfile.mkdtemp(prefix="holdfast-kernels-"))
    try:
        os.chown(folder, entry.pw_uid, entry.pw_gid)
    except PermissionError as error:
        folder.rmdir()
        raise InvalidConfig(f"only root can become user {user!r}", hint="leave --user out") from error
    return folder


def remove_folder(folder: Path | None) -> None:
    """Remove a folder, if there is one."""
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)


def _stop(process: subprocess.Popen[bytes], folder: Path, kernels: Path | None) -> None:
    if process.poll() is None:
        process.kill()
    process.wait()
    remove_folder(folder)
    remove_folder(kernels)


def socket_kind(*, shared: bool) -> socket.SocketKind:
    """Return the kind of AF_UNIX socket a worker listens on: packets beside shared memory, else a stream."""
    return socket.SOCK_SEQPACKET if shared else socket.SOCK_STREAM


def credentials(stream: socket.socket) -> tuple[int, int]:
    """Return the process and user that listened on the other end of an AF_UNIX socket, as the kernel knows them.

    Raises:
        MissingDevice: this kernel does not say.
    """
    if not hasattr(socket, "SO_PEERCRED"):
        raise MissingDevice("only Linux says who listens on a socket", hint="leave user out")
    raw = stream.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    process, user, _ = _CREDENTIALS.unpack(raw)
    return process, user


def _try_connect(path: Path, *, shared: bool, until: float) -> socket.socket | None:
    """Connect, or return None where nobody listens.

    Raises:
        WorkerUnreachable: somebody listens, but has no room for us before the monotonic time ``until``. Left to block,
            ``connect`` would wait for as long as others queue there.
    """
    while True:
        stream = socket.socket(socket.AF_UNIX, socket_kind(shared=shared))
        stream.setblocking(False)
        try:
            stream.connect(str(path))
        except BlockingIOError as error:
            stream.close()
            if time.monotonic() >= until:
                raise WorkerUnreachable(
                    f"the worker at {path} takes no further session", hint="is it busy with another one?"
                ) from error
            time.sleep(_POLL)
        except OSError:
            stream.close()
            return None
        else:
            stream.setblocking(True)
            return stream


def _channel(stream: socket.socket, *, shared: bool, timeout: float, ring: int) -> Channel:
    if shared:
        return offer(stream, ring, timeout=timeout, peer=_PEER)
    return Connection(stream, timeout=timeout, peer=_PEER)


def dial(address: str, *, timeout: float, ring: int = RING_BYTES, user: int | None = None) -> Channel:
    """Connect to a worker that runs already: ``unix:PATH``, or ``shared:PATH`` for one with shared memory.

    Args:
        timeout: seconds for each frame.
        ring: bytes of shared memory in each direction.
        user: the numeric user that must be listening there.

    Raises:
        InvalidConfig: another kind of address.
        WorkerUnreachable: nobody listens there, or who does has no room for us within ``timeout``.
        IntegrityError: another user listens there.
    """
    scheme, _, path = address.partition(":")
    if scheme not in ("unix", "shared") or not path:
        raise InvalidConfig(
            f"a worker is 'spawn' or 'unix:PATH', not {address!r}",
            hint="or shared:PATH, or grpc:HOST:PORT with mutual TLS",
        )
    stream = _try_connect(Path(path), shared=scheme == "shared", until=time.monotonic() + timeout)
    if stream is None:
        raise WorkerUnreachable(
            f"no worker listens on {path}",
            hint=f"start one: holdfast serve worker --socket {path}" + " --shared" * (scheme == "shared"),
        )
    if user is not None and (found := credentials(stream)[1]) != user:
        stream.close()
        raise IntegrityError(f"user {found} serves {path}, not user {user}", hint="somebody else took the socket")
    return _channel(stream, shared=scheme == "shared", timeout=timeout, ring=ring)
