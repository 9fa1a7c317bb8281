"""Mosaic shards (MDS, version 2): a folder with ``index.json`` and binary shards; fields are the bytes as encoded.

After the layout of https://github.com/mosaicml/streaming: a shard is the number of samples, that many offsets and one
more, the shard's own description in JSON, and the samples; a sample is the sizes of its variable columns and then the
columns one after the other. Numbers are u32, little-endian. Nothing is decoded, so nothing in a shard can run.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from holdfast._files import read_bytes
from holdfast.data.commitments.element import index_key
from holdfast.data.commitments.sources.protocol import Sample, sources
from holdfast.data.commitments.values import Value
from holdfast.errors import UnreadableArtifact
from holdfast.evidence import canonical

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
_COLUMNS = ("column_names", "column_encodings", "column_sizes")


@dataclass(frozen=True)
class _Shard:
    """What the index says of one shard."""

    path: Path
    size: int  # bytes
    count: int
    columns: tuple[tuple[str, str, int | None], ...]  # name, encoding, size where all are equal


@sources.register("mds")
@dataclass(frozen=True)
class Mosaic:
    """The samples of uncompressed shards in the order of the index; keys are places.

    Args:
        root: the folder with ``index.json``.
    """

    root: str

    @property
    def name(self) -> str:
        """The folder's name."""
        return Path(self.root).resolve().name

    @cached_property
    def shards(self) -> list[_Shard]:
        """What the index lists.

        Raises:
            UnreadableArtifact: no index, another version or format, compressed shards, or a malformed entry.
        """
        path = Path(self.root) / "index.json"
        value = canonical.loads(read_bytes(path, "index of shards", limit=canonical.MAX_BYTES), what=str(path))
        if not isinstance(value, dict) or value.get("version") != 2 or not isinstance(value.get("shards"), list):
            raise UnreadableArtifact(f"{path} is not an index of version 2")
        return [_listed(Path(self.root), item) for item in value["shards"]]

    def __len__(self) -> int:
        return sum(shard.count for shard in self.shards)

    def samples(self) -> Iterator[Sample]:
        """Yield one field per column: its bytes, under the dtype ``mds/ENCODING``."""
        place = 0
        for shard in self.shards:
            for fields in _read(shard):
                yield index_key(place), fields
                place += 1


def _listed(root: Path, value: object) -> _Shard:
    entry = value if isinstance(value, dict) else {}
    raw, count = entry.get("raw_data"), entry.get("samples")
    if entry.get("format") != "mds" or entry.get("version") != 2 or not isinstance(raw, dict):
        raise UnreadableArtifact(f"{root}/index.json lists something else than MDS shards of version 2")
    if entry.get("compression") or entry.get("zip_data"):
        raise UnreadableArtifact(f"{root} holds compressed shards", hint="unpack them first")
    name, size = raw.get("basename"), raw.get("bytes")
    if not isinstance(name, str) or not _NAME.fullmatch(name) or type(size) is not int or type(count) is not int:
        raise UnreadableArtifact(f"{root}/index.json has a malformed entry")
    return _Shard(root / name, size, count, _columns(entry, root))


def _columns(entry: Mapping[str, Any], where: Path) -> tuple[tuple[str, str, int | None], ...]:
    names, encodings, sizes = (entry.get(key) for key in _COLUMNS)
    if not isinstance(names, list) or not isinstance(encodings, list) or not isinstance(sizes, list):
        raise UnreadableArtifact(f"{where} does not describe its columns")
    if not names or len({len(names), len(encodings), len(sizes), len(set(map(str, names)))}) != 1:
        raise UnreadableArtifact(f"{where} names columns twice, or not as many as it describes")
    fixed = all(size is None or (type(size) is int and size >= 0) for size in sizes)
    if not fixed or not all(isinstance(item, str) for item in (*names, *encodings)):
        raise UnreadableArtifact(f"{where} describes a column wrongly")
    return tuple(zip(names, encodings, sizes, strict=True))


def _read(shard: _Shard) -> Iterator[dict[str, Value]]:
    data = read_bytes(shard.path, "shard", limit=shard.size)
    head = 4 + 4 * (shard.count + 1)
    if len(data) != shard.size or len(data) < head or shard.count < 0:
        raise UnreadableArtifact(f"{shard.path} has another length than the index says")
    count, *offsets = struct.unpack_from(f"<{shard.count + 2}I", data)
    if count != shard.count or offsets[-1] != len(data) or not head <= offsets[0]:
        raise UnreadableArtifact(f"{shard.path} holds other samples than the index says")
    if any(end < start for start, end in pairwise(offsets)):
        raise UnreadableArtifact(f"{shard.path} has samples that overlap")
    own = canonical.loads(data[head : offsets[0]], what=str(shard.path))
    if not isinstance(own, dict) or _columns(own, shard.path) != shard.columns:
        raise UnreadableArtifact(f"{shard.path} describes other columns than the index")
    for start, end in pairwise(offsets):
        yield _fields(data[start:end], shard)


def _fields(data: bytes, shard: _Shard) -> dict[str, Value]:
    variable = [name for name, _, size in shard.columns if size is None]
    at = 4 * len(variable)
    if len(data) < at:
        raise UnreadableArtifact(f"a sample of {shard.path} is cut off")
    sizes = dict(zip(variable, struct.unpack_from(f"<{len(variable)}I", data), strict=True))
    fields = {}
    for name, encoding, fixed in shard.columns:
        end = at + (sizes[name] if fixed is None else fixed)
        fields[name] = Value(f"mds/{encoding}", (), data[at:end])
        at = end
    if at != len(data):
        raise UnreadableArtifact(f"a sample of {shard.path} has another length than its columns")
    return fields
