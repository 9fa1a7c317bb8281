"""Runs inside a world and reports, as one JSON object, what it is and what it may do there."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import mmap
import os
import socket
import sys
import time
from collections.abc import Callable

LIBC = ctypes.CDLL(None, use_errno=True)


def outcome(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    return "allowed"


def call(number: int, *arguments: object) -> None:
    if LIBC.syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno(), "refused")


def write(path: str) -> None:
    with open(path, "w") as file:
        file.write("x")


def secrets() -> dict[str, str]:
    found = {}
    for entry in filter(None, os.environ.get("HOLDFAST_PROVISIONED", "").split(",")):
        name, handle, size = entry.split(":")
        with mmap.mmap(int(handle), max(int(size), 1)) as area:
            found[name] = hashlib.sha256(area[: int(size)]).hexdigest()
    return found


def report() -> dict[str, object]:
    status = dict(line.split(":\t", 1) for line in STATUS if ":\t" in line)
    return {
        "user": os.getresuid(),
        "group": os.getresgid(),
        "groups": os.getgroups(),
        "dumpable": LIBC.prctl(3, 0, 0, 0, 0),
        "no_new_privs": status["NoNewPrivs"].strip(),
        "filters": status["Seccomp"].strip(),
        "capabilities": status["CapEff"].strip(),
        "arguments": sys.argv[1:],
        "processes": sorted(int(name) for name in os.listdir("/proc") if name.isdigit()),
        "environment": sorted(os.environ),
        "secrets": secrets(),
        "modules": sorted({getattr(module, "__file__", None) or "" for module in sys.modules.values()}),
        "attempts": {
            "read what the host has": outcome(lambda: open("/etc/passwd")),
            "list the root": outcome(lambda: os.listdir("/")),
            "write its own code": outcome(lambda: write("/world/code/new.py")),
            "write to scratch": outcome(lambda: write("/tmp/scratch")),
            "read its own code": outcome(lambda: open("/world/code/probe.py")),
            "internet socket": outcome(lambda: socket.socket(socket.AF_INET)),
            "netlink socket": outcome(lambda: socket.socket(socket.AF_NETLINK)),
            "local socket": outcome(lambda: socket.socket(socket.AF_UNIX)),
            "trace": outcome(lambda: call(101, 0, 0, 0, 0)),
            "new namespaces": outcome(lambda: call(272, 0x10000000)),
            "clone into namespaces": outcome(lambda: call(56, 0x10000000 | 17, 0, 0, 0, 0)),
            "another program": outcome(lambda: os.execv(sys.executable, [sys.executable, "-c", ""])),
            "root again": outcome(lambda: os.setresuid(0, 0, 0)),
            "mount": outcome(lambda: call(165, b"none", b"/tmp", b"tmpfs", 0, None)),
            "another's memory": outcome(lambda: call(310, 1, None, 0, None, 0, 0)),
            "kernel keys": outcome(lambda: call(250, 0, 0, 0, 0, 0)),
            "load into the kernel": outcome(lambda: call(321, 0, None, 0)),
            "fork": outcome(lambda: os.waitpid(os.fork() or os._exit(0), 0)),
        },
    }


if __name__ == "__main__":
    with open("/proc/self/status") as file:
        STATUS = file.read().splitlines()
    print(json.dumps(report()), flush=True)
    if sys.stdin.readline() == "fork\n":
        child = os.fork()
        if not child:
            time.sleep(3600)
        print(child, flush=True)
    sys.stdin.read()
