"""A model's files one after the other, for signatures that list whatever they find."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from holdfast.errors import UnreadableArtifact
from holdfast.evidence.tree import Found, Links, Tree, open_tree

Skip = Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a tree; it can be opened until the walk ends. ``name`` is ``"."`` for a model of one file."""

    tree: Tree
    found: Found

    @property
    def name(self) -> str:
        """Its POSIX path below the model."""
        return self.found.name

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """Yield the open file, which is regular and stays the same size while it is open.

        Raises:
            UnreadableArtifact: it is no regular file, vanished, or changed while it was read.
        """
        with self.tree.open(self.found) as descriptor:
            before = os.fstat(descriptor)
            try:
                with os.fdopen(descriptor, "rb", buffering=0, closefd=False) as file:
                    yield file
            except OSError as error:
                raise UnreadableArtifact(f"cannot read {self.name}: {error.strerror or error}") from error
            after = os.fstat(descriptor)
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise UnreadableArtifact(f"{self.name} changed while it was read")


def walk(model: Path, skip: Skip, *, links: bool = False) -> Iterator[Entry]:
    """Yield every file of ``model`` that ``skip`` does not name; a single file is called ``"."``.

    Args:
        model: folder or file.
        skip: tells which paths to leave out; a folder that is skipped is not entered.
        links: follow links to files inside the model, or into the blobs of the Hugging Face cache that it lies in.

    Raises:
        UnreadableArtifact: see :func:`holdfast.evidence.tree.open_tree`.
    """
    with open_tree(model, exclude=skip, links=Links.INSIDE if links else Links.REFUSE) as tree:
        for found in tree.files:
            yield Entry(tree, found)
