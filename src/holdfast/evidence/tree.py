"""The files of a model: which there are, and opening exactly those, whatever else happens to the folder meanwhile.

Every step is relative to an open folder and follows no link, so a link put in place of a file or folder between
listing and opening is refused instead of followed. What was opened is checked once more before a byte of it is read.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path

from holdfast.errors import UnreadableArtifact

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a FIFO must not block before it is refused
DEEPEST = 64  # folders below the root
_BLOBS, _SNAPSHOTS = "blobs", "snapshots"
MOST_FILES = 1_000_000
Exclude = Iterable[str] | Callable[[str], bool]


class Links(Enum):
    """Which symbolic links stand for the file they name; a link to a folder never does.

    ``BLOBS`` is the Hugging Face cache: links to files right in the ``blobs`` folder that lies beside ``snapshots``.
    ``INSIDE`` adds links to files inside the model itself.
    """

    REFUSE = "refuse"
    BLOBS = "blobs"
    INSIDE = "inside"


@dataclass(frozen=True, slots=True)
class Found:
    """One file: its POSIX path below the root (``"."`` when the root is the file), and its size in bytes."""

    name: str
    size: int
    base: str = ""  # of a link that is followed: the folder below which its file lies,
    inside: str = ""  # and where


@dataclass(frozen=True, slots=True)
class Tree:
    """A listed root, ready for opening its files; ``handle`` is the open folder of the root, or of the file's own."""

    root: Path
    handle: int
    files: tuple[Found, ...]
    links: Links

    @contextmanager
    def open(self, found: Found) -> Iterator[int]:
        """Yield the descriptor of a listed file.

        Raises:
            UnreadableArtifact: it vanished, or is no regular file any more.
        """
        name = self.root.name if found.name == "." else found.name
        with _descriptor(self._open(name, found), self.root, found.name) as descriptor:
            yield descriptor

    def _open(self, name: str, found: Found) -> int:
        try:
            return _open_link(found.base, found.inside) if found.base else _open_beneath(self.handle, name)
        except OSError as error:
            raise _unreadable(self.root, found.name, error) from error


@contextmanager
def open_tree(root: Path | str, *, exclude: Exclude = (), links: Links = Links.REFUSE) -> Iterator[Tree]:
    """Yield the files below ``root``, sorted by code point of their names; a file gives one, named ``"."``.

    Args:
        root: folder or file.
        exclude: relative POSIX paths to leave out, or what tells them; that of a folder leaves out everything in it.
        links: which symbolic links to follow.

    Raises:
        UnreadableArtifact: ``root`` is missing, or holds a link that is not followed, a device, a socket, a FIFO, a
            name that is not UTF-8, folders nested deeper than 64, or more than a million files.
    """
    root = Path(root)
    if not os.path.lexists(root):
        raise UnreadableArtifact(f"no file or folder at {root}")
    try:
        folder = root.is_dir()
        handle = os.open(root if folder else root.parent, _FOLDER)
    except OSError as error:
        raise _unreadable(root, "", error) from error
    try:
        lister = _Lister(root, _test(exclude), links, root if folder else root.parent)
        lister.list(handle, "") if folder else lister.take(handle, "", root.name)
        files = [item if folder else replace(item, name=".") for item in lister.files]
        yield Tree(root, handle, tuple(sorted(files, key=lambda item: item.name)), links)
    finally:
        os.close(handle)


@dataclass
class _Lister:
    root: Path
    left_out: Callable[[str], bool]
    links: Links
    base: Path
    files: list[Found] = field(default_factory=list)

    def list(self, handle: int, prefix: str, depth: int = 0) -> None:
        """List one open folder, and those below it."""
        if depth > DEEPEST:
            raise UnreadableArtifact(f"{self.root / prefix} is nested deeper than {DEEPEST} folders")
        with _reading(self.root, prefix), os.scandir(handle) as entries:
            names = sorted(entry.name for entry in entries)
        for name in names:
            if not self.left_out(prefix + name):
                self.take(handle, prefix, name, depth)

    def take(self, handle: int, prefix: str, name: str, depth: int = 0) -> None:
        """Add one entry of an open folder: a file, everything in a folder, or the file that a link names."""
        path = _checked_name(prefix + name)
        with _reading(self.root, path):
            status = os.lstat(name, dir_fd=handle)
        if stat.S_ISDIR(status.st_mode):
            with _reading(self.root, path):
                inner = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=handle)
            try:
                self.list(inner, path + "/", depth + 1)
            finally:
                os.close(inner)
        elif stat.S_ISLNK(status.st_mode):
            self._add(self._followed(handle, path, name))
        else:
            _require_regular(status, self.root, path)
            self._add(Found(path, status.st_size))

    def _add(self, found: Found) -> None:
        if len(self.files) >= MOST_FILES:
            raise UnreadableArtifact(f"{self.root} holds more than {MOST_FILES} files")
        self.files.append(found)

    def _followed(self, handle: int, path: str, name: str) -> Found:
        """Return the file that a link names; the link is read once, and what it said is what is opened later."""
        if self.links is Links.REFUSE:
            raise _link(self.root / path)
        with _reading(self.root, path):
            folder = os.path.realpath(self.base / path.rpartition("/")[0])
            base, inside = self._destination(os.path.join(folder, os.readlink(name, dir_fd=handle)), path)
            with _descriptor(_open_link(base, inside), self.root, path) as descriptor:
                return Found(path, os.fstat(descriptor).st_size, base, inside)

    def _destination(self, target: str, path: str) -> tuple[str, str]:
        """Return the folder in which a link may lead, and the path of its file below that."""
        root = Path(os.path.realpath(self.base))
        blobs, plain = root.parent.parent / _BLOBS, Path(os.path.normpath(target))
        if plain.parent == blobs and root.parent.name == _SNAPSHOTS:
            return str(blobs), plain.name
        real = Path(os.path.realpath(target))
        if self.links is Links.INSIDE and real.is_relative_to(root) and real != root:
            if real.is_dir():
                raise _link(self.root / path, " to a folder")
            return str(root), real.relative_to(root).as_posix()
        raise _link(self.root / path, " that leads out of the model")


def _test(exclude: Exclude) -> Callable[[str], bool]:
    return exclude if callable(exclude) else frozenset(exclude).__contains__


def _open_beneath(handle: int, name: str) -> int:
    """Open a file below an open folder, one component after the other, following no link on the way."""
    *folders, last = name.split("/")  # canonical names: none of them is empty, . or ..
    opened: list[int] = []
    try:
        for folder in folders:
            handle = os.open(folder, _FOLDER | os.O_NOFOLLOW, dir_fd=handle)
            opened.append(handle)
        return os.open(last, _FILE, dir_fd=handle)
    finally:
        for descriptor in opened:
            os.close(descriptor)


def _open_link(base: str, inside: str) -> int:
    handle = os.open(base, _FOLDER | os.O_NOFOLLOW)
    try:
        return _open_beneath(handle, inside)
    finally:
        os.close(handle)


@contextmanager
def _descriptor(descriptor: int, root: Path, name: str) -> Iterator[int]:
    """Yield a descriptor of a regular file and close it."""
    try:
        _require_regular(os.fstat(descriptor), root, name)
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _reading(root: Path, name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _unreadable(root, name, error) from error


def _unreadable(root: Path, name: str, error: OSError) -> UnreadableArtifact:
    message = f"cannot read {root / name}: {error.strerror or error}"
    return UnreadableArtifact(message, hint="did it change meanwhile?")


def _require_regular(status: os.stat_result, root: Path, name: str) -> None:
    if not stat.S_ISREG(status.st_mode):  # paths are joined only here: a thousand of them cost what a file does
        raise _irregular(root / name)


def _link(path: Path, where: str = "") -> UnreadableArtifact:
    hint = "replace it by the file it names, or allow links to files of the model (--allow-symlinks)"
    return UnreadableArtifact(f"{path} is a link{where}, not a regular file", hint=hint)


def _irregular(path: Path) -> UnreadableArtifact:
    link = "replace it by its file, or follow links: --allow-symlinks (diff, resign: --links blobs)"
    hint = link if path.is_symlink() else "a model holds files and folders only"
    return UnreadableArtifact(f"{path} is not a regular file", hint=hint)


def _checked_name(name: str) -> str:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raise UnreadableArtifact(f"the name {os.fsencode(name)!r} is not UTF-8", hint="rename the file") from None
    return name
