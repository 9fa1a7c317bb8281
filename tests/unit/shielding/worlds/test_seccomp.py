"""The filter of system calls, run as the kernel runs it, against every call there is."""

from __future__ import annotations

import platform
import struct

import pytest

from holdfast.errors import MissingDevice
from holdfast.shielding.worlds import seccomp

X86_64, I386 = 0xC000003E, 0x40000003
ALLOW, KILL, EPERM, ENOSYS = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026


def run(program: bytes, number: int, *arguments: int, arch: int = X86_64) -> int:
    """Classic BPF over struct seccomp_data."""
    data = struct.pack("<IIQ6Q", number, arch, 0, *(arguments + (0,) * (6 - len(arguments))))
    steps = [struct.unpack_from("<HBBI", program, at) for at in range(0, len(program), 8)]
    place, accumulator = 0, 0
    while True:
        code, when_true, when_false, value = steps[place]
        place += 1
        if code == 0x06:
            return int(value)
        if code == 0x20:
            accumulator = struct.unpack_from("<I", data, value)[0]
        else:
            place += when_true if {0x15: accumulator == value, 0x45: bool(accumulator & value)}[code] else when_false


OUTER, INNER = seccomp.program(started=False), seccomp.program(started=True)


@pytest.mark.parametrize("program", [OUTER, INNER])
def test_only_listed_calls_are_allowed(program: bytes):
    allowed = {number for number in range(600) if run(program, number, 2) == ALLOW}
    assert {0, 1, 9, 202, 257} <= allowed
    dangerous = {
        101,
        165,
        166,
        175,
        246,
        248,
        249,
        250,
        272,
        298,
        304,
        308,
        310,
        311,
        313,
        317,
        321,
        323,
        425,
        435,
        438,
    }
    assert not allowed & dangerous  # ptrace mount umount module kexec keys unshare perf setns vm seccomp bpf io_uring
    assert not [number for number in range(0x40000000, 0x40000258) if run(program, number) == ALLOW]  # x32


def test_the_code_inside_starts_no_program_and_changes_no_user():
    for number in (59, 116, 117, 119):
        assert run(OUTER, number) == ALLOW
        assert run(INNER, number) == EPERM
    assert run(OUTER, 322) == EPERM  # execveat


@pytest.mark.parametrize("program", [OUTER, INNER])
def test_arguments_decide_where_they_must(program: bytes):
    for number in (41, 53):
        assert run(program, number, 1) == ALLOW
        assert [run(program, number, family) for family in (2, 10, 16, 17, 38, 40)] == [EPERM] * 6
    assert run(program, 56, 0x003D0F00) == ALLOW  # a thread
    for flag in (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000, 0x80):
        assert run(program, 56, flag | 17) == EPERM
    assert run(program, 435) == ENOSYS
    assert run(program, 16, 0, 0x5401) == ALLOW
    assert run(program, 16, 0, 0x5412) == EPERM  # TIOCSTI, typing for others


@pytest.mark.parametrize("program", [OUTER, INNER])
def test_another_instruction_set_is_killed(program: bytes):
    assert run(program, 0, arch=I386) == KILL


def test_other_machines_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(MissingDevice, match="riscv64"):
        seccomp.require_architecture()
