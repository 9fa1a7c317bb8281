"""How OpenSSF model signatures turn a model into digests: by files or by shards, with SHA-256, BLAKE2b or BLAKE3."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from blake3 import blake3

from holdfast.errors import InvalidConfig, UnreadableArtifact
from holdfast.signing.oms.names import shard_name
from holdfast.signing.oms.tree import Skip, walk

FILES, SHARDS = "files", "shards"
SPECIFICATION, MODEL_SIGNING = "specification", "model-signing"
SHARD_SIZE = 1_000_000_000  # bytes, as model-signing cuts
MAX_RESOURCES = 1 << 18
_BUFFER = 1 << 20  # bytes


class Hasher(Protocol):
    """What ``hashlib`` and ``blake3`` have in common."""

    def update(self, data: memoryview, /) -> object:
        """Take in bytes."""
        ...

    def hexdigest(self) -> str:
        """Return the digest so far, lower-case hex."""
        ...


HASHES: Mapping[str, Callable[[], Hasher]] = {"sha256": hashlib.sha256, "blake2b": hashlib.blake2b, "blake3": blake3}
HEX_DIGITS = {"sha256": 64, "blake2b": 128, "blake3": 64}


@dataclass(frozen=True, slots=True, kw_only=True)
class Serialization:
    """What a signature lists, and by which digests.

    The specification and the tool ``model-signing`` differ in the order of the list and in what they call a model of
    one file and the algorithm of a shard, and the tool takes its own names only; ``dialect`` chooses when writing, and
    both are read.

    Raises:
        InvalidConfig: an unknown method, hash or dialect, or a shard size without shards.
    """

    method: str = FILES  # files | shards
    hash: str = "sha256"  # sha256 | blake2b (512 bits) | blake3
    shard_size: int | None = None  # bytes, shards only; 10**9 by default
    allow_symlinks: bool = False
    ignore: frozenset[str] = field(default_factory=frozenset)  # paths inside the model
    dialect: str = SPECIFICATION  # specification | model-signing

    def __post_init__(self) -> None:
        if self.method not in (FILES, SHARDS) or self.hash not in HASHES:
            known = f"{FILES} or {SHARDS} with {', '.join(HASHES)}"
            raise InvalidConfig(f"cannot list a model by {self.method} with {self.hash}", hint=f"choose {known}")
        if self.dialect not in (SPECIFICATION, MODEL_SIGNING):
            raise InvalidConfig(f"unknown dialect {self.dialect!r}", hint=f"{SPECIFICATION} or {MODEL_SIGNING}")
        if self.method == SHARDS and self.shard_size is None:
            object.__setattr__(self, "shard_size", SHARD_SIZE)
        fits = self.shard_size is None if self.method == FILES else 0 < (self.shard_size or 0) <= 2**53
        if not fits:
            raise InvalidConfig(f"{self.method} cannot be {self.shard_size} bytes long", hint="only shards have a size")

    @property
    def sharded_hash(self) -> str:
        """What ``model-signing`` calls the algorithm of a shard, or of a file."""
        return self.hash if self.shard_size is None else f"{self.hash}-sharded-{self.shard_size}"

    def to_json(self) -> dict[str, Any]:
        """Return the predicate's ``serialization``; the same settings always give the same value."""
        value: dict[str, Any] = {"method": self.method, "hash_type": self.hash, "allow_symlinks": self.allow_symlinks}
        if self.shard_size is not None:
            value["shard_size"] = self.shard_size
        return value | {"ignore_paths": sorted(self.ignore)}


@dataclass(frozen=True, slots=True)
class Contents:
    """What a model holds: the digest (hex) of every file or shard by its OMS name, and the files nobody asked about.

    In shards a file without bytes has the entry ``name:0:0``, which OMS itself does not list.
    """

    digests: Mapping[str, str]
    others: tuple[str, ...] = ()


def digests(
    model: Path, how: Serialization, skip: Skip, *, alone: str = ".", only: Collection[str] | None = None
) -> Contents:
    """Return the digests of the files of ``model``, each read once in constant memory.

    Args:
        model: folder or file.
        how: method, hash, shard size, and whether links are followed.
        skip: paths to leave out.
        alone: what to call a model of one file.
        only: read these files and merely name the others; None reads all.

    Raises:
        UnreadableArtifact: see :func:`walk`; a file that changes meanwhile; or more than 262,144 files or shards.
    """
    result: dict[str, str] = {}
    others = []
    for entry in walk(model, skip, links=how.allow_symlinks):
        name = alone if entry.name == "." else entry.name
        if only is not None and name not in only:
            others.append(name)
            continue
        with entry.open() as file:
            result.update(_named(name, file, how))
        require_count(len(result))
    return Contents(result, tuple(others))


def require_count(count: int) -> None:
    """Raise :class:`UnreadableArtifact` if one statement would list too many files or shards."""
    if count > MAX_RESOURCES:
        hint = "larger shards make fewer entries"
        raise UnreadableArtifact(f"a signature lists at most {MAX_RESOURCES} files or shards", hint=hint)


def _named(name: str, file: BinaryIO, how: Serialization) -> Iterator[tuple[str, str]]:
    if how.shard_size is None:
        yield name, _digest(file, how.hash, None)[1]
        return
    start = 0
    while True:
        length, digest = _digest(file, how.hash, how.shard_size)
        if length or not start:
            yield shard_name(name, start, start + length), digest
        start += length
        if length < how.shard_size:
            return


def _digest(file: BinaryIO, algorithm: str, length: int | None) -> tuple[int, str]:
    """Return how many bytes, at most ``length``, were left in ``file``, and their digest."""
    room = _BUFFER if length is None else min(_BUFFER, length)
    hasher, buffer, done = HASHES[algorithm](), memoryview(bytearray(room)), 0
    while length is None or done < length:
        wanted = room if length is None else min(room, length - done)
        count = file.readinto(buffer[:wanted])  # type: ignore[attr-defined]
        if not count:
            break
        hasher.update(buffer[:count])
        done += count
    return done, hasher.hexdigest()
