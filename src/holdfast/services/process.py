"""What a worker's process gives up, and when it ends."""

from __future__ import annotations

import ctypes
import os
import pwd
import signal
import sys
import threading
import time

from holdfast.errors import InvalidConfig, WorkerUnreachable

_NO_NEW_PRIVS = 38  # PR_SET_NO_NEW_PRIVS
_LOOK = 0.5  # seconds between looks at who our parent is
ORPHANED = 4  # the exit code of an unreachable peer
PATIENCE = 5.0  # seconds in which an orphan may clean up


def become(user: str) -> None:
    """Give root's rights up for those of ``user``, a name or a number, for good.

    Raises:
        InvalidConfig: no such user, or we are not root.
    """
    try:
        entry = pwd.getpwuid(int(user)) if user.isdigit() else pwd.getpwnam(user)
    except KeyError as error:
        raise InvalidConfig(f"there is no user {user!r} here") from error
    if os.geteuid() != 0:
        raise InvalidConfig(f"only root can become user {user!r}", hint="leave --user out")
    os.setgroups([])
    os.setresgid(entry.pw_gid, entry.pw_gid, entry.pw_gid)
    os.setresuid(entry.pw_uid, entry.pw_uid, entry.pw_uid)


def renounce() -> None:
    """Have the kernel grant this process and its children no new rights, by whatever program they run."""
    if sys.platform == "linux":
        done = ctypes.CDLL(None, use_errno=True).prctl(_NO_NEW_PRIVS, 1, 0, 0, 0)
        if done != 0:
            raise WorkerUnreachable(f"this kernel does not take rights away: {os.strerror(ctypes.get_errno())}")


def end_with(parent: int) -> None:
    """Have this process end soon after its parent does, whatever it is doing then, also before anybody connected.

    The parent's number is given, not asked for, since the parent may be gone already when we first look. Linux would
    send a signal (``PR_SET_PDEATHSIG``), but when the *thread* that started us ends, and it forgets that on a change
    of user; so we look.
    """
    threading.Thread(target=_outlive_not, args=(parent,), daemon=True, name="parent").start()


def _outlive_not(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK)
    os.kill(os.getpid(), signal.SIGTERM)  # removes the socket, unless the main thread is stuck
    time.sleep(PATIENCE)
    os._exit(ORPHANED)


def end_when_terminated() -> None:
    """Have SIGTERM end this process like an exit: the socket is removed, and the code is that of the signal."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
