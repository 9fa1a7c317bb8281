"""What a source is, and the one registry of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from holdfast._registry import Registry, coerce, unknown
from holdfast.data.catalogue import dataset as load_dataset
from holdfast.data.catalogue import datasets, path_and_options
from holdfast.data.commitments.element import Fields
from holdfast.data.commitments.samples import keyed
from holdfast.data.dataset import Dataset
from holdfast.errors import InvalidConfig

Sample = tuple[str, Fields]


class Source(Protocol):
    """A dataset as a stream; reading it twice gives the same samples."""

    @property
    def name(self) -> str:
        """What the dataset is called when nobody says otherwise."""
        ...

    def __len__(self) -> int:
        """How many samples there are."""
        ...

    def samples(self) -> Iterator[Sample]:
        """Yield (key, fields), each key once, fields as stored."""
        ...


sources: Registry[Source] = Registry("sample source", "holdfast.sample_sources")


@dataclass(frozen=True)
class ImageSource:
    """One of our own datasets."""

    data: Dataset

    @property
    def name(self) -> str:
        """The dataset's own name, as ``cifar10/train``."""
        return self.data.name

    def __len__(self) -> int:
        return len(self.data)

    def samples(self) -> Iterator[Sample]:
        """Yield ``image`` as stored, ``label`` and ``class``; keys are places."""
        return keyed(self.data, None, ())


def open_source(spec: str, *, split: str = "test") -> Source:
    """Return the source that ``spec`` names.

    Args:
        spec: ``npz:FILE``, ``webdataset:TAR``, ``parquet:FILE``, ``arrow:FILE``, ``mds:FOLDER``, ``hf:FOLDER``,
            ``files:FOLDER``, or a dataset as :func:`holdfast.dataset` takes it.
        split: of a dataset that has several.

    Raises:
        UnknownName: neither a source nor a dataset.
        InvalidConfig: an option it does not have, or a missing path.
        UnreadableArtifact: a missing or malformed file, named.
    """
    name, _, tail = spec.partition(":")
    if name not in sources.names():
        if name not in datasets.names():
            raise unknown("dataset", name, _known())
        return ImageSource(load_dataset(spec, split=split))
    options = path_and_options(tail)
    if "root" not in options:
        raise InvalidConfig(f"the source {name} needs a path", hint=f"write {name}:PATH")
    reader = sources.get(name)
    return reader(**coerce(reader, options, what=f"source {name!r}"))


def _known() -> Sequence[str]:
    return [*sources.names(), *datasets.names()]
