"""Whether every reader of a ZIP archive finds the same members in it.

The list of members lies at the end of an archive, and readers look for it in unlike ways: some believe the place that
the end record states, some reckon it from where that record is; some look further back for the record than others. An
archive made for this shows one list to whoever judges it and another to whoever loads it.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import IO

from holdfast.errors import UnreadableArtifact
from holdfast.evidence.containers.npz import list_of_members

_BEGIN, _END = b"PK\x03\x04", b"PK\x05\x06"
_REACH = 1 << 20  # bytes before the end in which an end record counts; known readers look at 64 KiB and a little more


def looks_like_archive(path: Path) -> bool:
    """Return whether a file begins as a ZIP archive does, and has what may be the end record of one near its end."""
    with path.open("rb") as stream:
        begins = stream.read(len(_BEGIN)) == _BEGIN
        stream.seek(max(os.fstat(stream.fileno()).st_size - _REACH, 0))
        return begins and _END in stream.read(_REACH)


def readers_agree(path: Path) -> bool:
    """Return whether an archive ends in its end record, without a comment, and has its list right before that."""
    with path.open("rb") as stream:
        try:
            list_of_members(partial(_read_at, stream), os.fstat(stream.fileno()).st_size)
        except UnreadableArtifact:
            return False
        return True


def _read_at(stream: IO[bytes], offset: int, length: int) -> bytes:
    stream.seek(offset)
    return stream.read(length)
