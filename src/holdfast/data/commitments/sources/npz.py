"""A numpy archive: equally long arrays side by side, one sample per row; pickled objects are refused."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from holdfast.data.commitments.element import index_key
from holdfast.data.commitments.sources.protocol import Sample, sources
from holdfast.errors import UnreadableArtifact

_BROKEN = (OSError, ValueError, EOFError, KeyError, MemoryError, NotImplementedError, zipfile.BadZipFile, zlib.error)


@sources.register("npz")
@dataclass(frozen=True)
class Npz:
    """The rows of an ``.npz`` file; an array called ``key`` gives text keys, otherwise places do.

    Args:
        root: the file.
        limit: most bytes the arrays may take in memory.
    """

    root: str
    limit: int = 1 << 36

    @property
    def name(self) -> str:
        """The file's name without its suffix."""
        return Path(self.root).stem

    @cached_property
    def arrays(self) -> dict[str, np.ndarray[Any, Any]]:
        """Arrays by name, all of one length.

        Raises:
            UnreadableArtifact: no archive, two arrays of one name, objects, other lengths, or beyond ``limit``.
        """
        try:
            self._check_directory()
            with np.load(self.root, allow_pickle=False) as archive:
                found = {name: archive[name] for name in archive.files}
        except _BROKEN as error:
            raise UnreadableArtifact(f"{self.root} is no archive of plain arrays: {error}") from error
        lengths = {len(array) if array.ndim else -1 for array in found.values()}
        if len(lengths) != 1 or not lengths.isdisjoint((0, -1)):
            raise UnreadableArtifact(f"{self.root} does not hold arrays of one length", hint="one row per sample")
        return found

    def _check_directory(self) -> None:
        with zipfile.ZipFile(self.root) as archive:
            names = [item.filename for item in archive.infolist()]
            total = sum(item.file_size for item in archive.infolist())
        if len(set(names)) != len(names) or not all(name.endswith(".npy") and "/" not in name for name in names):
            raise ValueError("it holds something else than arrays, or two of one name")
        if total > self.limit:
            raise ValueError(f"{total} bytes are more than {self.limit}")

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def samples(self) -> Iterator[Sample]:
        """Yield one field per array."""
        arrays = dict(self.arrays)
        keys = arrays.pop("key", None)
        if keys is not None and keys.dtype.kind != "U":
            raise UnreadableArtifact(f"{self.root}: the array 'key' holds {keys.dtype}, not text")
        for place in range(len(self)):
            key = index_key(place) if keys is None else str(keys[place])
            yield key, {name: _cell(array[place]) for name, array in arrays.items()}


def _cell(value: Any) -> Any:
    """Numpy text and bytes of fixed width become what they say."""
    return value.item() if isinstance(value, np.str_ | np.bytes_) else value
