"""Datasets of the ``datasets`` library saved to disk (extra ``hf-data``): rows as stored, images as encoded bytes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from holdfast._extras import extra
from holdfast.data.commitments.arrow_rows import stored_rows, table_rows
from holdfast.data.commitments.element import index_key
from holdfast.data.commitments.sources.protocol import Sample, sources
from holdfast.errors import InvalidConfig, UnreadableArtifact

_ROWS = 256


def _library() -> Any:
    return extra("datasets", name="hf-data", needs="reading saved Hugging Face datasets needs datasets")


@sources.register("hf")
@dataclass(frozen=True)
class HuggingFace:
    """The rows of one split that ``save_to_disk`` wrote; nothing is downloaded and no loading script runs.

    Args:
        root: the folder.
        split: of a folder with several.
    """

    root: str
    split: str | None = None

    @property
    def name(self) -> str:
        """The folder's name, with the split if there is one."""
        return Path(self.root).resolve().name + (f"/{self.split}" if self.split else "")

    @cached_property
    def data(self) -> Any:
        """The dataset.

        Raises:
            UnreadableArtifact: no saved dataset.
            InvalidConfig: several splits and none chosen, or an unknown one.
        """
        library = _library()
        try:
            found = library.load_from_disk(self.root)
        except (OSError, ValueError, KeyError) as error:
            raise UnreadableArtifact(f"{self.root} is no saved dataset: {error}") from error
        if not isinstance(found, library.DatasetDict):
            return found
        if self.split not in found:
            raise InvalidConfig(f"{self.root} has the splits {', '.join(found)}", hint="write hf:FOLDER,split=train")
        return found[self.split]

    def __len__(self) -> int:
        return len(self.data)

    def samples(self) -> Iterator[Sample]:
        """Yield one field per column, as stored; keys are places."""
        for start in range(0, len(self.data), _ROWS):
            rows = stored_rows(self.data, range(start, min(start + _ROWS, len(self.data))))
            for place, row in enumerate(table_rows(rows), start):
                yield index_key(place), row
