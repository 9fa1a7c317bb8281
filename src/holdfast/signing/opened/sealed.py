"""A folder for libraries that want paths: every file in it is sealed memory, verified after it was sealed.

A memory file of Linux (``memfd``) under the seals against writing, growing and shrinking cannot be changed by any
process, its owner included; libraries may map it. The folder holds only links to these files and is readable by its
owner alone.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from holdfast.errors import DigestMismatch, Unavailable, UnreadableArtifact
from holdfast.signing.opened.content import Listed
from holdfast.signing.opened.memory import hash_whole
from holdfast.signing.opened.model import VerifiedModel
from holdfast.signing.opened.source import OpenFile

_SEALS = ("F_SEAL_SHRINK", "F_SEAL_GROW", "F_SEAL_WRITE", "F_SEAL_SEAL")


@contextmanager
def sealed_folder(model: VerifiedModel, wanted: Callable[[str], bool]) -> Iterator[Path]:
    """Yield a folder with the signed files for whose names ``wanted`` holds, all of them verified.

    Raises:
        DigestMismatch: other bytes than the signed ones.
        Unavailable: the system has no sealed memory (it is Linux's).
    """
    if not hasattr(os, "memfd_create"):
        raise Unavailable("sealed memory needs Linux", hint="open_verified works everywhere")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="holdfast-")))  # 0700
        for listed in model.content.files.values():
            if wanted(listed.name):
                sealed = stack.enter_context(_sealed(model, listed))
                link = folder / listed.name
                link.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                link.symlink_to(f"/proc/{os.getpid()}/fd/{sealed}")
        yield folder


@contextmanager
def _sealed(model: VerifiedModel, listed: Listed) -> Iterator[int]:
    handle = os.memfd_create("holdfast", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with model.memory.opened(listed) as source:
            _copy(source, handle)
        fcntl.fcntl(handle, fcntl.F_ADD_SEALS, sum(getattr(fcntl, name) for name in _SEALS))
        # hashed once nothing can change it any more, not while it was copied
        if hash_whole(OpenFile(listed.name, handle, source.size), listed.algorithm) != listed.digest:
            raise DigestMismatch(f"{listed.name} differs from its signed digest")
        yield handle
    finally:
        os.close(handle)


def _copy(source: OpenFile, target: int) -> None:
    done = 0
    while done < source.size:
        try:
            count = os.sendfile(target, source.handle, done, source.size - done)
        except OSError as error:
            raise UnreadableArtifact(f"cannot copy {source.name} into memory: {error.strerror}") from error
        if not count:
            raise DigestMismatch(f"{source.name} ends before byte {source.size}, which was signed")
        done += count
