"""WebDataset: tar files whose members with one base name are the fields of one sample.

After the convention of https://github.com/webdataset/webdataset: the key is the path up to the first dot of its last
part, the field is the rest in lower case. Fields are the bytes as stored.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import IO

from holdfast.data.commitments.sources.protocol import Sample, sources
from holdfast.errors import UnreadableArtifact


@sources.register("webdataset")
@dataclass(frozen=True)
class WebDataset:
    """The samples of one tar file, or of all ``*.tar`` in a folder in the order of their names.

    Strict: only regular files and folders; no links, no absolute or climbing paths, no name twice, and the members of a
    sample stand next to each other, as every reader of the format wants them.

    Args:
        root: tar file (plain), or folder of shards.
        limit: most bytes of one member.
    """

    root: str
    limit: int = 1 << 32

    @property
    def name(self) -> str:
        """The name of the file or folder."""
        return Path(self.root).resolve().stem

    @cached_property
    def shards(self) -> list[Path]:
        """The tar files."""
        root = Path(self.root)
        found = sorted(root.glob("*.tar")) if root.is_dir() else [root]
        if not found or not all(path.is_file() for path in found):
            raise UnreadableArtifact(f"no tar file at {root}")
        return found

    @cached_property
    def _count(self) -> int:
        return sum(1 for _ in self.samples())

    def __len__(self) -> int:
        return self._count

    def samples(self) -> Iterator[Sample]:
        """Yield the fields of each sample by suffix, as bytes.

        Raises:
            UnreadableArtifact: no tar file, a member that is not allowed, or a sample in two pieces; named.
        """
        finished: set[str] = set()
        for shard in self.shards:
            key, fields = "", dict[str, bytes]()
            for member, suffix, data in self._members(shard):
                if member != key:
                    if fields:
                        finished.add(key)
                        yield key, fields
                    key, fields = member, {}
                if key in finished or suffix in fields:
                    raise UnreadableArtifact(f"{shard} has the sample {key!r} in two pieces, or a member of it twice")
                fields[suffix] = data
            if fields:
                finished.add(key)
                yield key, fields

    def _members(self, shard: Path) -> Iterator[tuple[str, str, bytes]]:
        try:
            with tarfile.open(shard, "r:") as archive:
                for member in archive:
                    if not member.isdir():
                        yield *self._named(member, shard), self._content(archive.extractfile(member), member, shard)
        except (tarfile.TarError, OSError, EOFError, ValueError) as error:
            raise UnreadableArtifact(f"{shard} is not a whole tar file: {error}") from error

    def _named(self, member: tarfile.TarInfo, shard: Path) -> tuple[str, str]:
        if member.type not in tarfile.REGULAR_TYPES or member.issparse():
            raise UnreadableArtifact(f"{shard}: {member.name!r} is not a regular file")
        path = PurePosixPath(member.name)
        stem, dot, suffix = path.name.partition(".")
        if path.is_absolute() or ".." in path.parts or str(path) not in (member.name, member.name.removeprefix("./")):
            raise UnreadableArtifact(f"{shard}: the name {member.name!r} is not allowed")
        if not stem or not dot or not suffix:
            raise UnreadableArtifact(f"{shard}: {member.name!r} has no key and suffix", hint="names read KEY.SUFFIX")
        return (path.parent / stem).as_posix(), suffix.lower()

    def _content(self, file: IO[bytes] | None, member: tarfile.TarInfo, shard: Path) -> bytes:
        if file is None or member.size > self.limit:
            raise UnreadableArtifact(f"{shard}: {member.name!r} is larger than {self.limit} bytes")
        data = file.read()
        if len(data) != member.size:
            raise UnreadableArtifact(f"{shard}: {member.name!r} is cut off")
        return data
