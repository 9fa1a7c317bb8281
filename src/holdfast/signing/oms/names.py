"""Names in OpenSSF model signatures: relative POSIX paths, shards of them, and what no signature covers.

OMS v1.0 names a file by its path below the model and a shard by ``path:start:end`` (bytes, end exclusive). A path may
hold colons of its own, so a shard is read from the right.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from holdfast.errors import InvalidConfig
from holdfast.evidence.beside import LINEAGE, MANIFEST, OUTBOARDS, is_canonical

OWN_NAMES = (LINEAGE, OUTBOARDS, MANIFEST)  # what we write beside a model; each verified by itself
_SHARD = re.compile(r"(?P<path>.+):(?P<start>0|[1-9][0-9]{0,15}):(?P<end>0|[1-9][0-9]{0,15})", re.DOTALL)


def shard_name(path: str, start: int, end: int) -> str:
    """Return the name of bytes ``start`` to ``end`` (exclusive) of ``path``."""
    return f"{path}:{start}:{end}"


def parse_shard(name: str) -> tuple[str, int, int] | None:
    """Return path, start and end of a shard's name; None if it is not one in its one spelling."""
    found = _SHARD.fullmatch(name)
    return None if found is None else (found["path"], int(found["start"]), int(found["end"]))


def covers(folders: Iterable[str], name: str) -> bool:
    """Return whether ``name`` is one of ``folders`` or lies in one."""
    kept = folders if isinstance(folders, set | frozenset) else set(folders)
    return name in kept or any(folder in kept for folder in folders_above(name))


def folders_above(name: str) -> Iterator[str]:
    """Yield the folders that hold a relative path, the nearest first and ``.`` last."""
    while (cut := name.rfind("/")) >= 0:
        name = name[:cut]
        yield name
    yield "."


def require_ignorable(paths: Iterable[str]) -> frozenset[str]:
    """Return what a caller wants to leave unsigned, checked; a trailing slash is dropped.

    Raises:
        InvalidConfig: a path that is absolute, leaves the model, is all of it, or is a pattern.
    """
    result = frozenset(path.rstrip("/") if len(path) > 1 else path for path in paths)
    for path in sorted(result):
        if not is_canonical(path):
            raise InvalidConfig(f"cannot ignore {path!r}", hint="name files and folders by their path inside the model")
        if any(letter in path for letter in "*?["):
            raise InvalidConfig(f"{path!r} looks like a pattern", hint="ignored paths are names, one by one")
    return result
