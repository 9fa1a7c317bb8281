"""The machine of a vm world: QEMU that emulates every instruction, UEFI firmware, a TPM in software, and two ports.

No acceleration is asked for, so it runs wherever QEMU does, some ten to fifty times slower. It has no network, no disk
but the firmware's own, no display, and no monitor to command it with. QEMU may start no program and, where root starts
it, becomes the user of the world before the guest runs.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.errors import HoldfastError, InvalidConfig, MissingDevice, Unavailable, UnreadableArtifact
from holdfast.evidence import canonical
from holdfast.shielding.own_process import OwnProcess
from holdfast.shielding.worlds.vm_ports import LIMIT

TOOLS = {"qemu-system-x86_64": "qemu-system-x86", "swtpm": "swtpm"}
FIRMWARE = (Path("/usr/share/OVMF/OVMF_CODE_4M.fd"), Path("/usr/share/OVMF/OVMF_CODE.fd"))
_SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
_LAST_WORDS = 4096  # bytes of the console


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What is booted on what.

    Attributes:
        kernel: see :mod:`vm_kernel`.
        firmware: OVMF's code.
        variables: its empty variables, of which each start has a copy.
        memory: MiB.
        start_timeout: seconds until the guest must have answered.
        timeout: seconds that it has for any other answer.

    Raises:
        InvalidConfig: too little memory, or no time at all.
    """

    kernel: Path
    firmware: Path
    variables: Path
    memory: int = 1024
    start_timeout: float = 600.0
    timeout: float = 120.0

    def __post_init__(self) -> None:
        if self.memory < 256 or min(self.start_timeout, self.timeout) <= 0:
            raise InvalidConfig("a vm world has at least 256 MiB of memory, and some time to start in")


def require_tools(firmware: Path | None) -> tuple[Path, Path]:
    """Return the firmware to use and its variables.

    Raises:
        MissingDevice: the first thing that is not installed, by name.
    """
    for name, package in TOOLS.items():
        if shutil.which(name) is None:
            raise MissingDevice(f"no {name} here", hint=f"install {package}")
    code = next((path for path in ([firmware] if firmware else FIRMWARE) if path.is_file()), None)
    if code is None:
        raise MissingDevice(f"no UEFI firmware at {firmware or FIRMWARE[0]}", hint="install ovmf, or name firmware=")
    variables = code.with_name(code.name.replace("CODE", "VARS"))
    if variables == code or not variables.is_file():
        raise MissingDevice(f"{code} has no empty variables beside it", hint="OVMF_CODE.fd comes with OVMF_VARS.fd")
    return code, variables


class Running:
    """A machine that boots ``initrd``; ``close()``, or the end of this program, ends it.

    Args:
        machine: what it is.
        initrd: the initial file system.
        command_line: of the kernel.
        state: folder of the TPM's state.
        work: a folder for sockets and the console, which only ``user`` and root may enter.
        user: that QEMU runs as, where this is root.

    Raises:
        Unavailable: the TPM or QEMU does not start, the guest stops, or is not there in time.
    """

    def __init__(
        self, machine: Machine, initrd: Path, command_line: str, *, state: Path, work: Path, user: int
    ) -> None:  # fmt: skip
        self._machine, self._work = machine, work
        self._user = user if os.geteuid() == 0 else os.geteuid()
        self._processes: list[subprocess.Popen[bytes]] = []
        self.close = OwnProcess("a machine").finalize(self, _stop, self._processes)
        try:
            self._start(_tpm(state, work, self._user), None, work / "tpm.sock")
            shutil.copyfile(machine.variables, work / "variables")
            os.chown(work / "variables", self._user, -1)
            command = _qemu(machine, initrd, command_line, work)
            self._start(command, self._user, work / "control.sock", work / "run.sock")
            self._control = self.connect("control")
            self._ready(time.monotonic() + machine.start_timeout)
        except BaseException:
            self.close()
            raise

    def _start(self, command: list[str], user: int | None, *sockets: Path) -> None:
        who: dict[str, Any] = {} if user in (None, os.geteuid()) else {"user": user, "group": user, "extra_groups": ()}
        with (self._work / "log").open("ab") as log:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **who)  # noqa: S603
        self._processes.append(process)
        deadline = time.monotonic() + self._machine.timeout
        while not all(path.exists() for path in sockets):
            if process.poll() is not None or time.monotonic() > deadline:
                raise Unavailable(f"{command[0]} does not start", hint=self._words("log"))
            time.sleep(0.02)

    def _ready(self, deadline: float) -> None:
        """Wait for the guest's first words."""
        self._control.settimeout(1.0)
        while not self._spoken():
            if time.monotonic() > deadline:
                limit, said = f"{self._machine.start_timeout:g} s", self._words("console")
                raise Unavailable(f"the guest did not answer within {limit}", hint=said or "raise start_timeout")
        self._control.settimeout(self._machine.timeout)
        self._answer()

    def _spoken(self) -> bool:
        try:
            if self._control.recv(1, socket.MSG_PEEK):
                return True
        except TimeoutError:
            return False
        except ConnectionError:
            pass
        raise Unavailable("the guest stopped while it started", hint=self._words("console") or self._words("log"))

    def _words(self, name: str) -> str:
        """Return the line of a log that says most: an error of the first process, a panic, or the last one."""
        path = self._work / name
        lines = path.read_bytes()[-_LAST_WORDS:].decode(errors="replace").split("\n") if path.exists() else []
        said = ["".join(letter for letter in line if letter.isprintable()).strip() for line in lines]
        telling = [line for word in ("Error: ", "Kernel panic", "") for line in reversed(said) if word in line and line]
        return telling[0] if telling else ""

    def connect(self, port: str) -> socket.socket:
        """Return a connection to a port of the guest."""
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(str(self._work / f"{port}.sock"))
        except OSError as error:
            connection.close()
            raise Unavailable("the machine is gone", hint=self._words("log")) from error
        return connection

    def ask(self, do: str, **question: object) -> object:
        """Return the guest's answer to a question.

        Raises:
            Unavailable: it is gone, or does not answer in time.
            Refused: it says no.
        """
        words = canonical.dumps({"do": do, **question})
        try:
            self._control.sendall(len(words).to_bytes(4, "big") + words)
            return self._answer()
        except OSError as error:
            self._control.close()  # a late answer must not be taken for that to another question
            raise Unavailable(f"the guest does not answer: {error}", hint=self._words("console")) from error

    def _answer(self) -> object:
        length = int.from_bytes(self._exactly(4), "big")
        if length > LIMIT:
            raise UnreadableArtifact("the guest's answer is too long")
        found = canonical.loads(self._exactly(length), what="the guest's answer", max_bytes=LIMIT)
        if isinstance(found, dict) and isinstance(found.get("refused"), str):
            raise Refused(f"the guest refuses: {json.dumps(found['refused'][:200])}")
        if not isinstance(found, dict) or "answer" not in found:
            raise UnreadableArtifact("the guest's answer is none")
        return found["answer"]

    def _exactly(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            piece = self._control.recv(min(count - len(data), 1 << 16))
            if not piece:
                raise Unavailable("the guest stopped", hint=self._words("console"))
            data += piece
        return bytes(data)


class Refused(HoldfastError):
    """The guest could not do what it was asked."""


def _tpm(state: Path, work: Path, user: int) -> list[str]:
    control = f"type=unixio,path={work / 'tpm.sock'},mode=0600,uid={user},gid={user}"
    return ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={state},mode=0600", "--ctrl", control, "--terminate"]


def _qemu(machine: Machine, initrd: Path, command_line: str, work: Path) -> list[str]:
    devices = {"control": "1", "run": "2"}
    ports = [
        word
        for name, number in devices.items()
        for word in (
            "-chardev", f"socket,id={name},path={work / name}.sock,server=on,wait=off",
            "-device", f"virtserialport,chardev={name},name={name},nr={number}",
        )
    ]  # fmt: skip
    return [
        "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-monitor", "none",
        "-nic", "none", "-machine", "q35,accel=tcg,usb=off,vmport=off,hpet=off", "-cpu", "max", "-smp", "1",
        "-m", str(machine.memory), "-sandbox", _SANDBOX,
        "-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={machine.firmware}",
        "-drive", f"if=pflash,unit=1,format=raw,file={work / 'variables'}",
        "-kernel", str(machine.kernel), "-initrd", str(initrd), "-append", command_line,
        "-chardev", f"socket,id=tpm,path={work / 'tpm.sock'}", "-tpmdev", "emulator,id=tpm0,chardev=tpm",
        "-device", "tpm-tis,tpmdev=tpm0", "-device", "virtio-serial-pci,max_ports=3", *ports,
        "-chardev", f"file,id=console,path={work / 'console'}", "-serial", "chardev:console",
    ]  # fmt: skip


def _stop(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in reversed(processes):
        process.kill()
        process.wait()
