"""The system calls a world may make, as a program for the kernel's filter (seccomp, classic BPF), for x86-64.

A list of what is allowed; everything else fails with EPERM. Sockets are AF_UNIX only, new namespaces are refused, and
a process of another instruction set is killed, so that its other call numbers are no way around.
"""

from __future__ import annotations

import platform
import struct

from holdfast.errors import MissingDevice

_ARCH_X86_64 = 0xC000003E
_ALLOW, _KILL, _EPERM, _ENOSYS = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026
_LOAD, _JUMP_EQUAL, _JUMP_SET, _RETURN = 0x20, 0x15, 0x45, 0x06
_NUMBER, _ARCH, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data
_AF_UNIX = 1
_NEW_NAMESPACES = 0x7E020080  # CLONE_NEW{TIME,NS,CGROUP,UTS,IPC,USER,PID,NET}
_CALLS = {
    "read": 0, "write": 1, "open": 2, "close": 3, "stat": 4, "fstat": 5, "lstat": 6, "poll": 7, "lseek": 8, "mmap": 9,
    "mprotect": 10, "munmap": 11, "brk": 12, "rt_sigaction": 13, "rt_sigprocmask": 14, "rt_sigreturn": 15,
    "pread64": 17, "pwrite64": 18, "readv": 19, "writev": 20, "access": 21, "pipe": 22, "select": 23,
    "sched_yield": 24, "mremap": 25, "msync": 26, "mincore": 27, "madvise": 28, "dup": 32, "dup2": 33,
    "nanosleep": 35, "alarm": 37, "getpid": 39, "sendfile": 40, "connect": 42, "accept": 43, "sendto": 44,
    "recvfrom": 45, "sendmsg": 46, "recvmsg": 47, "shutdown": 48, "bind": 49, "listen": 50, "getsockname": 51,
    "getpeername": 52, "setsockopt": 54, "getsockopt": 55, "execve": 59, "exit": 60, "wait4": 61, "kill": 62,
    "uname": 63, "fcntl": 72, "flock": 73, "fsync": 74, "fdatasync": 75, "ftruncate": 77, "getcwd": 79, "chdir": 80,
    "rename": 82, "mkdir": 83, "rmdir": 84, "unlink": 87, "readlink": 89, "chmod": 90, "fchmod": 91, "umask": 95,
    "gettimeofday": 96, "getrlimit": 97, "getrusage": 98, "sysinfo": 99, "times": 100, "getuid": 102, "getgid": 104,
    "geteuid": 107, "getegid": 108, "getppid": 110, "getgroups": 115, "setgroups": 116, "setresuid": 117,
    "getresuid": 118, "setresgid": 119, "getresgid": 120, "capget": 125, "sigaltstack": 131, "statfs": 137,
    "fstatfs": 138, "sched_getparam": 143, "sched_getscheduler": 145, "sched_get_priority_max": 146,
    "sched_get_priority_min": 147, "prctl": 157, "arch_prctl": 158, "setrlimit": 160, "gettid": 186, "futex": 202,
    "sched_setaffinity": 203, "sched_getaffinity": 204, "getdents64": 217, "set_tid_address": 218,
    "restart_syscall": 219, "fadvise64": 221, "clock_gettime": 228, "clock_getres": 229, "clock_nanosleep": 230,
    "exit_group": 231, "epoll_wait": 232, "epoll_ctl": 233, "tgkill": 234, "waitid": 247, "openat": 257,
    "mkdirat": 258, "newfstatat": 262, "unlinkat": 263, "renameat": 264, "readlinkat": 267, "faccessat": 269,
    "pselect6": 270, "ppoll": 271, "set_robust_list": 273, "utimensat": 280, "epoll_pwait": 281, "fallocate": 285,
    "accept4": 288, "eventfd2": 290, "epoll_create1": 291, "dup3": 292, "pipe2": 293, "recvmmsg": 299,
    "prlimit64": 302, "sendmmsg": 307, "getcpu": 309, "renameat2": 316, "getrandom": 318, "memfd_create": 319,
    "membarrier": 324, "copy_file_range": 326, "statx": 332, "rseq": 334, "close_range": 436, "faccessat2": 439,
    "landlock_create_ruleset": 444, "landlock_add_rule": 445, "landlock_restrict_self": 446, "memfd_secret": 447,
    "futex_waitv": 449,
}  # fmt: skip
_ONLY_UNIX = (41, 53)  # socket, socketpair
_CLONE, _CLONE3, _IOCTL = 56, 435, 16
_TERMINAL = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)  # TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX
# what the start of the world needed and the code inside does not: another program, another user
_AFTERWARDS = ("execve", "setgroups", "setresuid", "setresgid")


def require_architecture() -> None:
    """Raise :class:`MissingDevice` on other machines than x86-64, for which no list of calls is known."""
    if platform.machine() != "x86_64":
        raise MissingDevice(f"no list of system calls is known for {platform.machine()}", hint="use an x86-64 machine")


def program(*, started: bool) -> bytes:
    """Return the filter: of the whole world, or with ``started`` the narrower one of the code inside."""
    body = _header()
    body += _checked(_CLONE, 0, _JUMP_SET, (_NEW_NAMESPACES,), allow=False)
    body += _when(_CLONE3, _ENOSYS)  # its flags are out of a filter's sight; the C library then uses clone
    for number in _ONLY_UNIX:
        body += _checked(number, 0, _JUMP_EQUAL, (_AF_UNIX,), allow=True)
    body += _checked(_IOCTL, 1, _JUMP_EQUAL, _TERMINAL, allow=True)
    for name, number in _CALLS.items():
        if not (started and name in _AFTERWARDS):
            body += _when(number, _ALLOW)
    return body + _instruction(_RETURN, 0, 0, _EPERM)


def _header() -> bytes:
    check = _instruction(_LOAD, 0, 0, _ARCH) + _instruction(_JUMP_EQUAL, 1, 0, _ARCH_X86_64)
    return check + _instruction(_RETURN, 0, 0, _KILL) + _instruction(_LOAD, 0, 0, _NUMBER)


def _when(number: int, result: int) -> bytes:
    return _instruction(_JUMP_EQUAL, 0, 1, number) + _instruction(_RETURN, 0, 0, result)


def _checked(number: int, argument: int, test: int, values: tuple[int, ...], *, allow: bool) -> bytes:
    """Decide about one call by the lower half of one argument: allowed, or refused, when a value matches."""
    tests = b"".join(
        _instruction(test, 0, 1, value) + _instruction(_RETURN, 0, 0, _ALLOW if allow else _EPERM) for value in values
    )
    inside = _instruction(_LOAD, 0, 0, _ARGUMENTS + 8 * argument) + tests
    inside += _instruction(_RETURN, 0, 0, _EPERM if allow else _ALLOW)
    return _instruction(_JUMP_EQUAL, 0, len(inside) // 8, number) + inside


def _instruction(code: int, when_true: int, when_false: int, value: int) -> bytes:
    return struct.pack("<HBBI", code, when_true, when_false, value)
