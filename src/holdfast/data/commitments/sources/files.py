"""A folder of files as they are: the key is the path, the fields are the bytes and the name of the folder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from holdfast._files import read_bytes
from holdfast.data.commitments.sources.protocol import Sample, sources
from holdfast.errors import UnreadableArtifact


@sources.register("files")
@dataclass(frozen=True)
class Files:
    """Every regular file below ``root``; links, devices and names that are not UTF-8 are refused."""

    root: str

    @property
    def name(self) -> str:
        """The folder's name."""
        return Path(self.root).resolve().name

    @cached_property
    def paths(self) -> dict[str, Path]:
        """Files by POSIX path, sorted."""
        root = Path(self.root)
        if not root.is_dir():
            raise UnreadableArtifact(f"no folder at {root}")
        found = sorted(path for path in root.rglob("*") if path.is_symlink() or not path.is_dir())
        for path in found:
            if path.is_symlink() or not path.is_file():
                raise UnreadableArtifact(f"{path} is not a regular file", hint="replace links by what they name")
        if not found:
            raise UnreadableArtifact(f"{root} holds no files")
        return {path.relative_to(root).as_posix(): path for path in found}

    def __len__(self) -> int:
        return len(self.paths)

    def samples(self) -> Iterator[Sample]:
        """Yield ``bytes`` and ``folder``, the class in a folder of one folder per class."""
        for name, path in self.paths.items():
            yield name, {"bytes": read_bytes(path, "sample"), "folder": PurePosixPath(name).parent.as_posix()}
