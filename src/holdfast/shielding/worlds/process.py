"""The process world: a Python module under a user of its own, in its own namespaces, measured into a software TPM.

bubblewrap gives it namespaces (mounts, processes, network, IPC, host name) and a root folder that holds nothing but
what was measured; :mod:`~holdfast.shielding.worlds.inside` then takes away the rest. Code of other users on the
machine cannot read it, write to it or trace it, and the code inside cannot reach out except through ``/shared``.
Against root and the hypervisor it protects nothing.
"""

from __future__ import annotations

import base64
import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path

from holdfast.errors import InvalidConfig, MissingDevice, PolicyError
from holdfast.evidence import canonical
from holdfast.shielding.attestation import Evidence, bound
from holdfast.shielding.worlds import sealing, seccomp
from holdfast.shielding.worlds.measuring import Measurement, measure
from holdfast.shielding.worlds.protocol import Launch, worlds
from holdfast.shielding.worlds.python_files import SITE, interpreter, standard_library, system_files
from holdfast.shielding.worlds.quoting import QuoteService
from holdfast.shielding.worlds.software_tpm import SoftwareTpm, require_tools

REGISTER = 12  # not resettable without restarting the TPM, and used by no firmware
USER = 61_500  # in the range that systems set aside for users made on the fly
MAX_SECRETS = 60_000  # bytes; what a pipe holds before anybody reads it
WORLD, _SHARED, INSIDE = "/world", "/shared", "/inside.py"
SCRATCH = "/tmp"  # noqa: S108 - the world's own, which nobody else sees
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")


@worlds.register("process")
class ProcessWorld:
    """A world of the process tier.

    Args:
        launch: what it runs.
        state: folder of the TPM's state, kept from one start to the next so that keys and sealed data live on; None
            makes one that is thrown away.
        user: numeric user that nothing else on the machine runs under.

    Raises:
        MissingDevice: not Linux on x86-64, not root, no memfd_secret, no Landlock, or bubblewrap, swtpm or tpm2-tools
            are not installed. There is no lesser world to fall back to.
    """

    def __init__(self, launch: Launch, *, state: Path | None = None, user: int = USER) -> None:
        require_host()
        if user < 1 or user == os.geteuid():
            raise InvalidConfig(f"user {user} does not set the world apart", hint=f"user={USER}")
        self._launch, self._user = launch, user
        self._work = Path(tempfile.mkdtemp(prefix="holdfast-world-"))
        self._state = self._work / "tpm" if state is None else state
        self._tpm: SoftwareTpm | None = None
        self._measurement: Measurement | None = None
        self._secrets: dict[str, bytes] = {}
        self._running: list[subprocess.Popen[bytes]] = []
        self._services: list[QuoteService] = []
        self._lock = threading.Lock()  # one command to the TPM at a time

    def measure(self) -> Measurement:
        """Measure interpreter, libraries, code and configuration, copying what is to be copied."""
        if self._measurement is None:
            self._measurement = Measurement(tuple(self._measured()))
        return self._measurement

    def _measured(self) -> list[tuple[str, bytes]]:
        inside = self._work / "inside.py"
        found = [("inside", measure(Path(__file__).with_name("inside.py"), inside))]
        found.append(("interpreter", measure(interpreter())))
        found.append(("standard-library", measure(standard_library(), without={SITE})))
        listing = [[path, measure(Path(path).resolve()).hex()] for path in system_files()]
        found.append(("system", hashlib.sha256(canonical.dumps(listing)).digest()))
        copies = self._work / "measured"
        copies.mkdir(mode=0o755)
        for name, path in sorted(self._launch.measured.items()):
            found.append((name, measure(path, copies / name)))
        found += [(name, measure(path)) for name, path in sorted(self._launch.libraries.items())]
        return [*found, ("config", hashlib.sha256(canonical.dumps(self._config())).digest())]

    def start(self) -> None:
        """Measure, start the TPM and extend its register; nothing runs yet.

        Raises:
            Unavailable: the TPM does not start.
            PolicyError: something that stays in place could be changed by others.
        """
        if self._tpm is not None:
            return
        measurement = self.measure()
        self._tpm = SoftwareTpm(self._state)
        for extended in measurement.extended():
            self._tpm.extend(REGISTER, extended)

    @property
    def key_name(self) -> str:
        """The TPM's name of the key that signs this world's quotes, for :attr:`Policy.keys` after enrolment."""
        return self._started().key_name()

    def quote(self, nonce: bytes, binding: bytes = b"") -> Evidence:
        """Return a TPM quote over :func:`~holdfast.shielding.attestation.bound` of both."""
        with self._lock:
            return self._started().quote((REGISTER,), bound(nonce, binding), self.measure().log(REGISTER))

    def provision(self, secrets: Mapping[str, bytes]) -> None:
        """Take secrets for the code inside.

        Raises:
            PolicyError: the world was not measured and started.
            InvalidConfig: names that are none, or more than 60,000 bytes.
        """
        self._started()
        require_names(secrets)
        if sum(map(len, secrets.values())) + 80 * len(secrets) > MAX_SECRETS or len(secrets) > 100:
            raise InvalidConfig(f"secrets are keys: at most {MAX_SECRETS} bytes and a hundred of them")
        self._secrets = dict(secrets)

    def run(self) -> subprocess.Popen[bytes]:
        """Run the module in the world; it dies with the thread that called this.

        Raises:
            PolicyError: the world was not measured and started.
        """
        self._started()
        pipe, sink = os.pipe()
        rules = os.memfd_create("seccomp")
        service = QuoteService(self.quote)
        self._services.append(service)
        quotes = service.inner.fileno()
        try:
            os.write(sink, message(self._secrets))
            os.write(rules, seccomp.program(started=False))
            os.lseek(rules, 0, os.SEEK_SET)
            process = subprocess.Popen(  # noqa: S603
                self._command(pipe, quotes, rules), pass_fds=(pipe, quotes, rules), env={},
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )  # fmt: skip
        finally:
            for handle in (pipe, sink, rules):
                os.close(handle)
            service.inner.close()
        self._running.append(process)
        return process

    def seal(self, name: str, data: bytes) -> bytes:
        """Seal to the measurement, under a counter of the TPM."""
        with self._lock:
            return sealing.seal(self._started(), REGISTER, name, data)

    def unseal(self, name: str, sealed: bytes) -> bytes:
        """Open what was sealed last, if the measurement is the same."""
        with self._lock:
            return sealing.unseal(self._started(), REGISTER, name, sealed)

    def close(self) -> None:
        """Kill what runs, end the TPM, remove the copies."""
        for process in self._running:
            process.kill()
            process.wait()
        for service in self._services:
            service.close()
        if self._tpm is not None:
            self._tpm.close()
            self._tpm = None
        self._secrets = {}
        shutil.rmtree(self._work, ignore_errors=True)

    def _started(self) -> SoftwareTpm:
        if self._tpm is None:
            raise PolicyError("the world was not measured and started", hint="World.start()")
        return self._tpm

    def _config(self) -> dict[str, object]:
        """Return what is measured of how the module runs."""
        places = {name: f"{WORLD}/{name}" for name in self._launch.measured}
        places |= {name: str(path.resolve()) for name, path in self._launch.libraries.items()}
        shared = [_SHARED] if self._launch.shared else []
        return told(self._launch, user=self._user, places=places, writable=[SCRATCH, *DEVICES, *shared])

    def _command(self, pipe: int, quotes: int, rules: int) -> list[str]:
        config = canonical.dumps(self._config() | {"quotes": quotes, "secrets": pipe}).decode()
        python = [str(interpreter()), "-I", "-S", "-B", "-X", "pycache_prefix=/nowhere", INSIDE, config]
        return [shutil.which("bwrap") or "bwrap", *_ISOLATION, *self._mounts(), "--seccomp", str(rules), "--", *python]

    def _mounts(self) -> list[str]:
        library = standard_library()
        binds = [(str(interpreter()), str(interpreter())), (str(library), str(library))]
        binds += [(str(Path(path).resolve()), path) for path in system_files()]
        binds += [(str(self._work / "inside.py"), INSIDE)]
        binds += [(str(self._work / "measured" / name), f"{WORLD}/{name}") for name in self._launch.measured]
        binds += [(str(path.resolve()), str(path.resolve())) for path in self._launch.libraries.values()]
        # folders on the way to what is mounted, which bubblewrap would make for root alone
        above = sorted({str(folder) for _, target in binds for folder in Path(target).parents} - {"/"})
        arguments = [word for folder in above for word in ("--perms", "0755", "--dir", folder)]
        arguments += [word for source, target in binds for word in ("--ro-bind", source, target)]
        if (library / SITE).is_dir():
            arguments += ["--tmpfs", str(library / SITE)]  # what others installed beside the standard library
        if self._launch.shared is not None:
            os.chown(self._launch.shared, self._user, -1)
            arguments += ["--bind", str(self._launch.shared.resolve()), _SHARED]
        return arguments


_ISOLATION = (
    "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try", "--hostname", "world",
    "--die-with-parent", "--new-session", "--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID",
    "--clearenv", "--setenv", "LANG", "C.UTF-8", "--setenv", "HOME", SCRATCH, "--proc", "/proc", "--dev", "/dev",
    "--perms", "1777", "--tmpfs", SCRATCH, "--chdir", SCRATCH,
)  # fmt: skip


def require_names(secrets: Mapping[str, bytes]) -> None:
    """Raise :class:`InvalidConfig` unless every secret has a name that the code inside can ask for."""
    if not all(name.isidentifier() and name.isascii() and len(name) < 64 for name in secrets):
        raise InvalidConfig("a secret's name is a short identifier")


def told(launch: Launch, *, user: int, places: Mapping[str, str], writable: list[str]) -> dict[str, object]:
    """Return what :mod:`inside` is told, apart from the numbers of two pipes; ``places`` says where files lie."""
    system = [str(interpreter()), str(standard_library()), *system_files(), INSIDE, "/proc", "/dev"]
    return {
        "module": launch.module,
        "arguments": list(launch.arguments),
        "path": [places[name] for name in launch.path],
        "readable": [*places.values(), *system],
        "writable": writable,
        "limits": dict(launch.limits),
        "user": user,
        "filter": base64.b64encode(seccomp.program(started=True)).decode(),
    }


def require_host() -> None:
    """Raise :class:`MissingDevice` unless this machine can hold a process world."""
    if platform.system() != "Linux":
        raise MissingDevice("the process world needs Linux")
    seccomp.require_architecture()
    require_tools()
    if shutil.which("bwrap") is None:
        raise MissingDevice("no bwrap here", hint="install bubblewrap")
    if os.geteuid() != 0:
        raise MissingDevice("only root starts a world under a user of its own", hint="run the launcher as root")
    for name, number, arguments in (("memfd_secret", 447, (0,)), ("Landlock", 444, (None, 0, 1))):
        found = ctypes.CDLL(None).syscall(number, *arguments)
        if found < 0:
            raise MissingDevice(f"this kernel has no {name}", hint="Linux 6.7 or later, with it enabled")
        if name == "memfd_secret":
            os.close(found)


def message(secrets: Mapping[str, bytes]) -> bytes:
    """Return secrets in the form that :func:`inside.keep` reads."""
    parts = [bytes((len(secrets),))]
    for name, value in secrets.items():
        parts += [bytes((len(name),)), name.encode(), len(value).to_bytes(2, "big"), value]
    return b"".join(parts)
