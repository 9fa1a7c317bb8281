"""Rows of Parquet and Arrow files (extra ``data``): each column is a field with the type it is stored in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from holdfast.data.commitments.arrow_rows import pyarrow, table_rows
from holdfast.data.commitments.element import index_key
from holdfast.data.commitments.sources.protocol import Sample, sources
from holdfast.errors import UnreadableArtifact

_ROWS = 1024


@sources.register("parquet")
@dataclass(frozen=True)
class Parquet:
    """The rows of a Parquet file, or of all ``*.parquet`` in a folder in the order of their names.

    Args:
        root: the file or folder.
        key: the column with the keys (text or whole numbers), which is a field as well; places by default.
    """

    root: str
    key: str | None = None
    suffix = ".parquet"

    @property
    def name(self) -> str:
        """The name of the file or folder."""
        return Path(self.root).resolve().stem

    @cached_property
    def files(self) -> Sequence[Path]:
        """The files, in order."""
        root = Path(self.root)
        found = sorted(root.glob(f"*{self.suffix}")) if root.is_dir() else [root]
        if not found or not all(path.is_file() for path in found):
            raise UnreadableArtifact(f"no {self.suffix} file at {root}")
        return found

    @cached_property
    def _count(self) -> int:
        return sum(batch.num_rows for path in self.files for batch in self._batches(path))

    def __len__(self) -> int:
        return self._count

    def samples(self) -> Iterator[Sample]:
        """Yield one field per column.

        Raises:
            UnreadableArtifact: no such file, or a malformed one; a key column that is absent or holds nothing.
        """
        place = 0
        for path in self.files:
            for batch in self._batches(path):
                for row in table_rows(batch):
                    yield self._key(row, place, path), row
                    place += 1

    def _key(self, row: dict[str, Any], place: int, path: Path) -> str:
        if self.key is None:
            return index_key(place)
        value = row.get(self.key)
        if not isinstance(value, str | np.integer):
            raise UnreadableArtifact(f"{path}: row {place} has no key in column {self.key!r}")
        return str(value)

    def _batches(self, path: Path) -> Iterator[Any]:
        failure = pyarrow().lib.ArrowException
        try:
            with pyarrow(".parquet").ParquetFile(path, memory_map=False) as file:
                yield from file.iter_batches(_ROWS)
        except (failure, OSError) as error:
            raise UnreadableArtifact(f"{path} is not a whole Parquet file: {error}") from error


@sources.register("arrow")
@dataclass(frozen=True)
class Arrow(Parquet):
    """The rows of an Arrow IPC file, or of all ``*.arrow`` in a folder; options as for Parquet."""

    suffix = ".arrow"

    def _batches(self, path: Path) -> Iterator[Any]:
        ipc, failure = pyarrow(".ipc"), pyarrow().lib.ArrowException
        try:
            with pyarrow().OSFile(str(path)) as file:
                yield from _ipc_batches(ipc, file, failure)
        except (failure, OSError) as error:
            raise UnreadableArtifact(f"{path} is not a whole Arrow file: {error}") from error


def _ipc_batches(ipc: Any, file: Any, failure: type[Exception]) -> Iterator[Any]:
    """Yield the batches of the random-access kind, or of the streaming kind that other libraries write."""
    try:
        reader = ipc.open_file(file)
    except failure:
        file.seek(0)
        yield from ipc.open_stream(file)
        return
    for place in range(reader.num_record_batches):
        yield reader.get_batch(place)
