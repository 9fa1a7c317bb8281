"""The vm world: the module in a machine of its own, measured from the firmware's first code to the last file read.

QEMU boots a Linux kernel on UEFI firmware (OVMF) with a TPM in software. Firmware and kernel extend what they start
into registers 0 to 9, IMA extends every file that is run or read into register 10, and the guest's first code, whose
image was measured, extends what the image says of itself into register 12. The TPM is the guest's alone: its quote
covers all of them, and the logs come along. In the guest the module runs as in a process world: its own user,
Landlock, a filter of system calls. Like there, whoever is root on the host can do what he likes; what is gained over
a process world is that no kernel is shared with the module, and that the evidence has the form of a real machine's.
"""

from __future__ import annotations

import base64
import os
import secrets as random
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from holdfast.errors import InvalidConfig, PolicyError, UnreadableArtifact
from holdfast.shielding.attestation import Claims, Evidence, Policy, bound, verify
from holdfast.shielding.attestation.evidence import bytes_of
from holdfast.shielding.attestation.ima_log import require_known
from holdfast.shielding.worlds import sealing, seccomp, software_tpm, vm_digests, vm_image
from holdfast.shielding.worlds.measuring import Measurement, measure
from holdfast.shielding.worlds.process import message, require_names
from holdfast.shielding.worlds.protocol import Launch, worlds
from holdfast.shielding.worlds.vm_enrolment import Enrolled, enrol
from holdfast.shielding.worlds.vm_kernel import find_kernel
from holdfast.shielding.worlds.vm_machine import Machine, Refused, Running, require_tools
from holdfast.shielding.worlds.vm_tpm import KEY_REGISTERS, REGISTER
from holdfast.shielding.worlds.vm_wrapping import wrap_message

USER = 61_502  # on the host for QEMU, and in the guest for the module
COMMAND_LINE = "console=ttyS0 loglevel=4 panic=-1 rdinit=/init ima_hash=sha256 ima_template=ima-ng lockdown=integrity"
_BY_FIRMWARE = " initrd=initrd"  # what OVMF adds to it
_BOOTED = ("kernel", "firmware", "variables", "initrd")
_SHARE = 0.4  # of the memory that files may take; the kernel gives them half


@dataclass(frozen=True, slots=True)
class BootMeasurement(Measurement):
    """What is booted beside what the image says of itself: allowed digests (hex) by name, and every file's by path."""

    boot: tuple[tuple[str, tuple[str, ...]], ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)

    def demands(self) -> Mapping[str, tuple[str, ...]]:
        """Return the measurements that a policy asks for which accepts this world and no other."""
        return {**Measurement.demands(self), **dict(self.boot)}


@worlds.register("vm")
class VmWorld:
    """A world of the machine tier.

    Args:
        launch: what it runs; libraries are copied into the image, and no folder is shared.
        kernel: a Linux kernel of 6.7 or later that needs no modules; None finds the newest that is installed.
        firmware: OVMF's code; None finds the distribution's.
        state: folder of the TPM's state, kept from one start to the next so that keys and sealed data live on; None
            makes one that is thrown away.
        user: numeric user that nothing else on the machine runs under.
        memory: MiB; files may take two fifths of it.
        start_timeout: seconds until the guest must be up. Every instruction is emulated: allow a minute or more.
        timeout: seconds for any answer of the guest.

    Raises:
        MissingDevice: not on x86-64, or QEMU, OVMF, swtpm or tpm2-tools are not installed, or there is no kernel.
            There is no lesser world to fall back to.
        InvalidConfig: something that a machine cannot have.
    """

    def __init__(
        self, launch: Launch, *, kernel: Path | None = None, firmware: Path | None = None, state: Path | None = None,
        user: int = USER, memory: int = 1024, start_timeout: float = 600.0, timeout: float = 120.0,
    ) -> None:  # fmt: skip
        seccomp.require_architecture()
        software_tpm.require_tools()
        if launch.shared is not None:
            raise InvalidConfig("a vm world shares no folder with its host", hint="use its standard streams")
        if user < 1 or user == os.geteuid():
            raise InvalidConfig(f"user {user} does not set the world apart", hint=f"user={USER}")
        code, variables = require_tools(firmware)
        self._machine = Machine(
            kernel=find_kernel(kernel), firmware=code, variables=variables, memory=memory, start_timeout=start_timeout,
            timeout=timeout,
        )  # fmt: skip
        self._launch, self._user = launch, user
        self._work = Path(tempfile.mkdtemp(prefix="holdfast-vm-"))
        self._state = self._work / "tpm" if state is None else state
        self._measurement: BootMeasurement | None = None
        self._enrolled: Enrolled | None = None
        self._running: Running | None = None
        self._relay: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()  # one question to the guest at a time

    def measure(self) -> BootMeasurement:
        """Build the image from copies as they are measured, and compute what firmware will measure of it.

        Raises:
            InvalidConfig: the files need more memory.
            UnreadableArtifact: kernel or firmware are none that this can be said of.
        """
        if self._measurement is None:
            root, initrd = self._work / "image", self._work / "initrd"
            shutil.rmtree(root, ignore_errors=True)  # of an attempt that failed
            inner = vm_image.build(self._launch, root, user=self._user)
            self._require_room(root)
            files = vm_image.files(root)
            initrd_digest = vm_image.pack(root, initrd).hex()
            boot = self._boot(initrd.stat().st_size) | {"boot.initrd": (initrd_digest,)}
            self._measurement = BootMeasurement(inner.events, tuple(sorted(boot.items())), files)
        return self._measurement

    def _require_room(self, root: Path) -> None:
        needed = sum(path.lstat().st_size for path in root.rglob("*"))
        if needed > self._machine.memory * 2**20 * _SHARE:
            mebibytes = int(needed / 2**20 / _SHARE) + 1
            raise InvalidConfig(f"the files of this world take {needed} bytes of memory", hint=f"memory={mebibytes}")

    def _boot(self, initrd_size: int) -> dict[str, tuple[str, ...]]:
        """Copy kernel and firmware, and return what is expected of them and of the command line."""
        for name in ("kernel", "firmware", "variables"):
            (self._work / name).unlink(missing_ok=True)
            measure(getattr(self._machine, name), self._work / name)
        kernels = vm_digests.kernel_digests(
            self._work / "kernel", initrd_size=initrd_size, memory=self._machine.memory
        )  # fmt: skip
        lines = (COMMAND_LINE + _BY_FIRMWARE, COMMAND_LINE)
        return {
            "boot.command-line": tuple(map(vm_digests.command_line_digest, lines)),
            "boot.firmware.1": (vm_digests.firmware_volume_digest(self._work / "firmware"),),
            "boot.kernel": kernels,
        }

    def start(self) -> None:
        """Measure, enrol the TPM, and boot; the module does not run yet.

        Raises:
            Unavailable: TPM or machine do not start, or the guest is not up in time.
        """
        if self._running is not None:
            return
        self.measure()
        self._enrolled = enrol(self._state)
        place = self._work / "machine"
        shutil.rmtree(place, ignore_errors=True)  # of a start that failed
        place.mkdir(mode=0o700)
        self._let_in(place)
        kernel, firmware, variables, initrd = (self._work / name for name in _BOOTED)
        machine = replace(self._machine, kernel=kernel, firmware=firmware, variables=variables)
        self._running = Running(machine, initrd, COMMAND_LINE, state=self._state, work=place, user=self._user)

    def _let_in(self, place: Path) -> None:
        """Let QEMU's user read what is booted, and write to ``place``; nobody else reads any of it."""
        if os.geteuid() != 0:
            return
        os.chown(place, self._user, self._user)
        for path, mode in ((self._work, 0o710), *((self._work / name, 0o640) for name in _BOOTED)):
            os.chown(path, 0, self._user)
            path.chmod(mode)

    @property
    def key_name(self) -> str:
        """The TPM's name of the key that signs this world's quotes, for :attr:`Policy.keys` after enrolment."""
        return self._known().key_name

    def quote(self, nonce: bytes, binding: bytes = b"") -> Evidence:
        """Return a quote that the guest made with its TPM, and the logs of firmware, image and IMA."""
        bound(nonce, binding)  # refuses what the guest would refuse
        blobs = {"nonce": _text(nonce), "binding": _text(binding)}
        return Evidence.from_bytes(bytes_of(self.ask("quote", blobs=blobs), what="guest's quote"))

    def attest(self) -> Claims:
        """Quote for a fresh nonce, and return the claims if they are of this world and nothing else ran in it.

        Raises:
            VerificationError: the guest is not what was measured.
        """
        nonce = random.token_bytes(32)
        policy = Policy(kind="tpm2", measurements=self.measure().demands(), keys=(self.key_name,))
        claims = verify(self.quote(nonce), policy, nonce=bound(nonce), at=datetime.now(UTC))
        require_known(claims, self.measure().files)
        return claims

    def provision(self, secrets: Mapping[str, bytes]) -> None:
        """Attest the guest, and give it secrets that only its TPM opens, and only in the state that was attested.

        Raises:
            PolicyError: the world was not measured and started, or cannot open them.
            VerificationError: the guest is not what was measured.
            InvalidConfig: names that are none, or more than 4096 bytes.
        """
        enrolled = self._known()
        require_names(secrets)
        claims = self.attest()
        registers = {index: bytes.fromhex(claims.measurements[f"pcr.{index}"]) for index in KEY_REGISTERS}
        objects = wrap_message(enrolled.storage_key, registers, message(secrets))
        try:
            self.ask("provision", objects=objects)
        except Refused as error:
            raise PolicyError(f"the guest cannot open its secrets: {error}") from error

    def run(self) -> subprocess.Popen[bytes]:
        """Run the module in the guest; the process returned stands for it: its streams, its exit code, its end.

        Raises:
            PolicyError: the world was not measured and started, or its module runs already.
        """
        running = self._started()
        if self._relay is not None and self._relay.poll() is None:
            raise PolicyError("the module of this world runs already", hint="end it first, or start another world")
        self.ask("stop")
        with running.connect("run") as connection:
            handle = connection.fileno()
            script = str(Path(__file__).with_name("vm_relay.py"))
            process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-I", "-S", script, str(handle)], pass_fds=(handle,), env={},
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )  # fmt: skip
        self._relay = process
        try:
            self.ask("run")
        except BaseException:
            process.kill()
            process.communicate()
            raise
        return process

    def seal(self, name: str, data: bytes) -> bytes:
        """Seal to what was booted, under a counter of the TPM."""
        self._started()
        return sealing.seal(_GuestTpm(self), REGISTER, name, data)

    def unseal(self, name: str, sealed: bytes) -> bytes:
        """Open what was sealed last, if the same was booted."""
        self._started()
        return sealing.unseal(_GuestTpm(self), REGISTER, name, sealed)

    def close(self) -> None:
        """End module and machine, and remove the copies."""
        if self._relay is not None:
            self._relay.kill()
            self._relay.wait()
        if self._running is not None:
            self._running.close()
            self._running = None
        shutil.rmtree(self._work, ignore_errors=True)

    def ask(self, do: str, **question: object) -> object:
        """Ask the guest; one question at a time."""
        with self._lock:
            return self._started().ask(do, **question)

    def _started(self) -> Running:
        if self._running is None:
            raise PolicyError("the world was not measured and started", hint="World.start()")
        return self._running

    def _known(self) -> Enrolled:
        self._started()
        if self._enrolled is None:
            raise PolicyError("the world was not measured and started", hint="World.start()")
        return self._enrolled


class _GuestTpm:
    """The guest's TPM as :mod:`sealing` uses one; what is bound to is every register that a secret depends on."""

    def __init__(self, world: VmWorld) -> None:
        self._world = world

    def seal(self, register: int, secret: bytes) -> Mapping[str, bytes]:
        """Return ``secret`` bound to what was booted."""
        found = self._world.ask("seal", blobs={"secret": _text(secret)})
        if not isinstance(found, dict):
            raise UnreadableArtifact("the guest's answer is no sealed object")
        return {name: bytes_of(found.get(name), what="guest's answer") for name in software_tpm.SEALED}

    def unseal(self, register: int, sealed: Mapping[str, bytes]) -> bytes:
        """Return the secret, or raise :class:`PolicyError`."""
        blobs = {name: _text(sealed[name]) for name in software_tpm.SEALED}
        try:
            return bytes_of(self._world.ask("unseal", blobs=blobs), what="guest's answer")
        except Refused as error:
            raise PolicyError("the TPM does not unseal: another measurement, or another TPM") from error

    def count(self, name: str, *, increment: bool) -> int:
        """Return a monotonic counter of the guest's TPM."""
        found = self._world.ask("count", name=name, increment=increment)
        if not isinstance(found, int) or isinstance(found, bool):
            raise UnreadableArtifact("the guest's answer is no count")
        return found


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
