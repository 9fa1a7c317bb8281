"""A model's files, opened so that nothing can be swapped between the look and the open.

Every folder is opened relative to its parent and without following links, and every file is checked after it was
opened. A link is followed only if the caller allows it, only to a file, and only inside the model or into the ``blobs``
folder of the Hugging Face cache that the model lies in.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from holdfast.errors import UnreadableArtifact

MAX_FOLDERS = 64  # below one another
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a pipe put there meanwhile must not block us
Skip = Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a tree; it can be opened until the walk goes on. ``name`` is ``"."`` for a model of one file."""

    name: str
    opener: Callable[[], int]

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """Yield the open file, which is regular and stays the same size while it is open.

        Raises:
            UnreadableArtifact: it is no regular file, vanished, or changed while it was read.
        """
        with _naming(self.name), os.fdopen(self.opener(), "rb", buffering=0) as file:
            before = os.fstat(file.fileno())
            if not stat.S_ISREG(before.st_mode):
                raise irregular(self.name)
            yield file
            after = os.fstat(file.fileno())
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise UnreadableArtifact(f"{self.name} changed while it was read")


def irregular(name: str) -> UnreadableArtifact:
    """Return the error about a device, pipe or socket."""
    return UnreadableArtifact(f"{name} is not a regular file", hint="a model holds files and folders only")


@contextmanager
def _naming(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UnreadableArtifact(f"cannot read {name}: {error.strerror or error}") from error


def walk(model: Path, skip: Skip, *, links: bool = False) -> Iterator[Entry]:
    """Yield every file of ``model`` that ``skip`` does not name, folder by folder; a single file is called ``"."``.

    Args:
        model: folder or file.
        skip: tells which paths to leave out; a folder that is skipped is not entered.
        links: follow links to files.

    Raises:
        UnreadableArtifact: nothing there, a link that may not be followed, a device, pipe or socket, a name that is
            not UTF-8, or folders nested deeper than 64.
    """
    if not model.is_dir():
        yield _single(model, links)
        return
    with _naming(str(model)):
        root = os.open(model, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)  # the caller's own path may be a link
    try:
        yield from _walk(_Walk(model, skip, links), root, "")
    finally:
        os.close(root)


def _single(model: Path, links: bool) -> Entry:
    if not model.is_symlink():
        if not model.is_file():
            raise irregular(str(model)) if model.exists() else UnreadableArtifact(f"no file or folder at {model}")
        return Entry(".", lambda: os.open(model, _FILE))
    return Entry(".", _follow(model.parent, model.name, links))


@dataclass(frozen=True, slots=True)
class _Walk:
    model: Path
    skip: Skip
    links: bool


def _walk(walk: _Walk, folder: int, prefix: str) -> Iterator[Entry]:
    if prefix.count("/") > MAX_FOLDERS:
        raise UnreadableArtifact(f"{prefix[:40]}... lies deeper than {MAX_FOLDERS} folders")
    with _naming(prefix or str(walk.model)), os.scandir(folder) as listing:
        found = sorted(listing, key=lambda item: item.name)
    for item in found:
        name = _utf8(prefix + item.name)
        if not walk.skip(name):
            yield from _visit(walk, folder, item, name)


def _visit(walk: _Walk, folder: int, item: os.DirEntry[str], name: str) -> Iterator[Entry]:
    if item.is_symlink():
        yield Entry(name, _follow(walk.model, name, walk.links))
    elif item.is_dir(follow_symlinks=False):
        with _naming(name):
            below = os.open(item.name, _FOLDER, dir_fd=folder)
        try:
            yield from _walk(walk, below, f"{name}/")
        finally:
            os.close(below)
    elif item.is_file(follow_symlinks=False):
        yield Entry(name, lambda: os.open(item.name, _FILE, dir_fd=folder))
    else:
        raise irregular(name)


def _utf8(name: str) -> str:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raise UnreadableArtifact(f"the name {os.fsencode(name)!r} is not UTF-8", hint="rename the file") from None
    return name


def _follow(model: Path, name: str, allowed: bool) -> Callable[[], int]:
    """Return what opens the file that a link leads to, from a folder it may be in, without following anything more."""
    if not allowed:
        raise UnreadableArtifact(
            f"{name} is a link", hint="replace it by the file, or allow links with --allow-symlinks"
        )
    base, inside = _destination(model, name)
    return lambda: _open_beneath(base, inside)


def _destination(model: Path, name: str) -> tuple[Path, tuple[str, ...]]:
    root = Path(os.path.realpath(model))
    target = Path(os.path.realpath(root / name))
    for base in (root, *_blobs(root)):
        if target.is_relative_to(base) and target != base:
            if target.is_dir():
                raise UnreadableArtifact(
                    f"{name} is a link to a folder", hint="no signature covers what lies behind it"
                )
            if not target.exists():
                raise UnreadableArtifact(f"{name} is a link that leads nowhere")
            return base, target.relative_to(base).parts
    raise UnreadableArtifact(f"{name} is a link that leads out of the model", hint="replace it by the file it names")


def _blobs(root: Path) -> list[Path]:
    """Return the folder that holds the files of a snapshot in a Hugging Face cache: ``blobs`` beside ``snapshots``."""
    return [root.parent.parent / "blobs"] if root.parent.name == "snapshots" else []


def _open_beneath(base: Path, inside: tuple[str, ...]) -> int:
    folder = os.open(base, _FOLDER)
    try:
        for part in inside[:-1]:
            below = os.open(part, _FOLDER, dir_fd=folder)
            os.close(folder)
            folder = below
        return os.open(inside[-1], _FILE, dir_fd=folder)
    finally:
        os.close(folder)
