"""The first code inside a process world: locks the door behind itself, then runs the module it was told to.

Run by path with the standard library only (``python -ISB inside.py CONFIG``), before anything else of Holdfast or of
anybody is imported. In order: another user, no capabilities, no dumps, secrets into memory the kernel itself has no
map of, Landlock, a narrower filter of system calls. If any of it fails, nothing runs.
"""

from __future__ import annotations

import base64
import ctypes
import json
import mmap
import os
import resource
import runpy
import sys
from typing import Any

_LIBC = ctypes.CDLL(None, use_errno=True)
_SET_DUMPABLE, _GET_DUMPABLE, _SET_NO_NEW_PRIVS, _SET_SECCOMP = 4, 3, 38, 22
_SECCOMP_FILTER = 2
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF, _MEMFD_SECRET = 444, 445, 446, 447
_PATH_BENEATH = 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_FOLDER = 1, 2, 4, 8
_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | 1 << 14  # and truncate: what a rule about a file may name
_LOCKED_OUT = 78


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("net", ctypes.c_uint64))


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("access", ctypes.c_uint64), ("parent", ctypes.c_int32))


class _Filter(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("program", ctypes.c_char_p))


def _called(result: int, what: str) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")
    return result


def become(user: int) -> None:
    """Be ``user`` and nobody else, for good."""
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    with open("/proc/self/status") as status:
        lines = dict(line.rstrip("\n").split(":\t", 1) for line in status if ":\t" in line)
    if os.getresuid() != (user, user, user) or any(int(lines[name], 16) for name in ("CapEff", "CapPrm", "CapAmb")):
        raise PermissionError("the world keeps rights it should not have")


def hide(limits: dict[str, int]) -> None:
    """Keep others of the same user from tracing this process or reading its memory, and write no core files."""
    _called(_LIBC.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    _called(_LIBC.prctl(_SET_DUMPABLE, 0, 0, 0, 0), "dumpable")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for name, value in limits.items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))


def keep(source: int) -> dict[str, str]:
    """Move secrets from a pipe into memory that is out of the kernel's own reach; return where each is.

    The pipe carries: count u8, then for each name u8 + bytes and value u16 + bytes, big-endian.
    """
    places = []
    with os.fdopen(source, "rb", buffering=0) as stream:
        for _ in range(_exactly(stream, 1)[0]):
            name = bytes(_exactly(stream, _exactly(stream, 1)[0])).decode("ascii")
            value = _exactly(stream, int.from_bytes(_exactly(stream, 2), "big"))
            places.append(f"{name}:{_secret(value)}:{len(value)}")
            value[:] = bytes(len(value))
    return {"HOLDFAST_PROVISIONED": ",".join(places)}


def _exactly(stream: Any, count: int) -> bytearray:
    data = bytearray(count)
    view = memoryview(data)
    while view:
        got = stream.readinto(view)
        if not got:
            raise EOFError("the secrets end too early")
        view = view[got:]
    return data


def _secret(value: bytearray) -> int:
    handle = _called(_LIBC.syscall(_MEMFD_SECRET, 0), "memfd_secret")
    os.ftruncate(handle, max(len(value), 1))
    with mmap.mmap(handle, max(len(value), 1)) as area:
        area[: len(value)] = bytes(value)
    return handle


def confine(readable: list[str], writable: list[str]) -> None:
    """Have the kernel allow only these paths, and no TCP port, from now on (Landlock)."""
    version = _called(_LIBC.syscall(_CREATE_RULESET, None, 0, 1), "Landlock")
    if version < 4:
        raise OSError(f"Landlock has version {version}, needed is 4 (Linux 6.7)")
    every = (1 << 16) - 1 if version >= 5 else (1 << 15) - 1
    rules = _Ruleset(every, 0b11)
    ruleset = _called(_LIBC.syscall(_CREATE_RULESET, ctypes.byref(rules), ctypes.sizeof(rules), 0), "Landlock")
    for paths, access in ((readable, _READ_FILE | _READ_FOLDER | _EXECUTE), (writable, every & ~_EXECUTE)):
        for path in paths:
            _allow(ruleset, path, access)
    _called(_LIBC.syscall(_RESTRICT_SELF, ruleset, 0), "Landlock")
    os.close(ruleset)


def _allow(ruleset: int, path: str, access: int) -> None:
    handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    rule = _Beneath(access if os.path.isdir(path) else access & _FILES, handle)
    _called(_LIBC.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.byref(rule), 0), f"Landlock, {path}")
    os.close(handle)


def narrow(program: bytes) -> None:
    """Add a filter of system calls to the one that stands."""
    chosen = _Filter(len(program) // 8, program)
    _called(_LIBC.prctl(_SET_SECCOMP, _SECCOMP_FILTER, ctypes.byref(chosen), 0, 0), "seccomp")


def lock(config: dict[str, Any]) -> None:
    """Do all of it."""
    become(config["user"])
    hide(config["limits"])
    os.environ.update(keep(config["secrets"]), HOLDFAST_QUOTES=str(config["quotes"]))
    confine(config["readable"], config["writable"])
    narrow(base64.b64decode(config["filter"]))


def main() -> None:
    """Lock the door, then run the module as ``python -m`` would."""
    config = json.loads(sys.argv[1])
    try:
        lock(config)
    except (OSError, ValueError, EOFError, KeyError) as error:
        sys.stderr.write(f"the world is not confined, so nothing runs: {error}\n")
        sys.exit(_LOCKED_OUT)
    sys.path[:0] = config["path"]
    sys.argv = [config["module"], *config["arguments"]]
    runpy.run_module(config["module"], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
