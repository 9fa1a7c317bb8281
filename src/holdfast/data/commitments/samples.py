"""Where samples come from, as (key, fields): our own image datasets, any map-style dataset, or a stream."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from blake3 import blake3
from torch import Tensor

from holdfast.data.commitments.arrow_rows import is_hugging_face, stored_rows, table_rows
from holdfast.data.commitments.element import (
    ELEMENT_CONTEXT,
    Encoder,
    Fields,
    index_key,
    name_bytes,
    prefixed,
    u64,
)
from holdfast.data.commitments.multiset import LANES, MultisetHash, lane_sum
from holdfast.data.commitments.table import LeafTable, Part, row_of
from holdfast.data.commitments.values import octets_of, typed
from holdfast.data.dataset import Dataset
from holdfast.errors import InvalidConfig

Progress = Callable[[int, int], None]
_BLOCK = 256


class MapStyle(Protocol):
    """What torch calls a map-style dataset."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


class ImageElements:
    """The elements of a :class:`holdfast.data.Dataset`: fields ``image`` as stored, ``label``, and ``class``, its name.

    All samples share dtype and shape, so all of their encoding but key and contents is prepared once.

    Args:
        data: the dataset; only its dtype, shape and class names are taken here.
        dataset: the id hashed into every element.
    """

    def __init__(self, data: Dataset, dataset: str) -> None:
        first = self.fields_of(data, data.raw[0], int(data.labels[0]))
        schema = tuple((name, value.dtype, value.shape) for name, value in sorted(_typed(first).items()))
        self._head = Encoder(dataset).prefix(schema)
        self._step = len(typed(first["image"]).data)
        self._around = {label: self._label(data, label) for label in set(data.labels.tolist())}

    def _label(self, data: Dataset, label: int) -> tuple[bytes, bytes, int]:
        """Return what stands before and after the pixels of a sample with this label, and the size of its fields."""
        name = prefixed(data.classes[label].encode()) if data.classes else b""
        size = self._step + 8 + max(len(name) - 8, 0)
        return name + u64(self._step), prefixed(typed(label).data), size

    @staticmethod
    def fields_of(data: Dataset, raw: Tensor, label: int) -> dict[str, Any]:
        """Return the fields of one sample."""
        named = {"class": data.classes[label]} if data.classes else {}
        return {"image": raw, "label": label, **named}

    def elements(self, keys: Sequence[bytes], raw: Tensor, labels: Tensor) -> tuple[list[bytes], list[int]]:
        """Return digests and sizes of a batch.

        Args:
            keys: length-prefixed keys.
            raw: (b, channels, height, width), as stored.
            labels: int64 (b,).
        """
        octets, step, head, around = octets_of(raw), self._step, self._head, self._around
        places = [around[label] for label in labels.tolist()]
        digests = [
            blake3(
                b"".join((head, key, before, octets[at : at + step], after)), derive_key_context=ELEMENT_CONTEXT
            ).digest()
            for key, (before, after, _), at in zip(keys, places, range(0, len(octets), step), strict=True)
        ]
        return digests, [size for _, _, size in places]


def _typed(fields: Fields) -> dict[str, Any]:
    return {name: typed(value) for name, value in fields.items()}


def places_as_keys(count: int) -> list[bytes]:
    """Return the keys of samples that have only their places, as they stand in an element (:func:`index_key`)."""
    length = u64(len(index_key(0)))
    return [b"%b%012d" % (length, place) for place in range(count)]


def prefixed_keys(keys: Iterable[str]) -> list[bytes]:
    """Return keys as they stand in an element."""
    return [prefixed(name_bytes(key, "key")) for key in keys]


def image_multiset(data: Dataset, dataset: str, keys: Sequence[str] | None = None) -> MultisetHash:
    """Return the multiset hash of an image dataset without making a table: the fastest commitment."""
    names = places_as_keys(len(data)) if keys is None else prefixed_keys(keys)
    elements, lanes, size = ImageElements(data, dataset), np.zeros(LANES, np.uint16), 0
    for start in range(0, len(data), _BLOCK):
        block = slice(start, start + _BLOCK)
        digests, sizes = elements.elements(names[block], data.raw[block], data.labels[block])
        lanes += lane_sum(digests)
        size += sum(sizes)
    return MultisetHash.from_lanes(lanes, len(data), size)


def image_fields(data: Dataset) -> Iterator[Fields]:
    """Yield the fields of every sample of an image dataset, in order."""
    for raw, label in zip(data.raw, data.labels.tolist(), strict=True):
        yield ImageElements.fields_of(data, raw, label)


def item_fields(item: object, names: Sequence[str] = ("sample", "label")) -> Fields:
    """Return the fields of what a map-style dataset gives: a mapping as it is, a tuple under ``names``.

    Raises:
        InvalidConfig: a tuple of another length than ``names``.
    """
    if isinstance(item, dict):
        return item
    values = item if isinstance(item, tuple | list) else (item,)
    if len(values) != len(names):
        raise InvalidConfig(
            f"a sample of {len(values)} parts does not fit the fields {', '.join(names)}", hint="give fields=(...)"
        )
    return dict(zip(names, values, strict=True))


def keyed(
    dataset: Dataset | MapStyle, keys: Sequence[str] | None, names: Sequence[str]
) -> Iterator[tuple[str, Fields]]:
    """Yield (key, fields) of every sample of a dataset in its order; keys are places where none are given."""
    count = len(dataset)
    if keys is not None and len(keys) != count:
        raise InvalidConfig(f"{len(keys)} keys for {count} samples")
    for place, fields in enumerate(_all_fields(dataset, names)):
        yield (index_key(place) if keys is None else keys[place]), fields


def _all_fields(dataset: Dataset | MapStyle, names: Sequence[str]) -> Iterator[Fields]:
    if isinstance(dataset, Dataset):
        yield from image_fields(dataset)
    elif is_hugging_face(dataset):
        for start in range(0, len(dataset), _BLOCK):
            yield from table_rows(stored_rows(dataset, range(start, min(start + _BLOCK, len(dataset)))))
    else:
        for place in range(len(dataset)):
            yield item_fields(dataset[place], names)


def table_of(
    dataset: str, samples: Iterable[tuple[str, Fields]], *, total: int = 0, progress: Progress | None = None
) -> LeafTable:
    """Return the leaf table of a stream of samples.

    Args:
        dataset: the id hashed into every element.
        samples: (key, fields) in any order.
        total: samples expected, for ``progress`` only.
        progress: called with (done, total).

    Raises:
        InvalidConfig: no samples, a key twice, or a value without an encoding; key and field are named.
    """
    encoder, rows = Encoder(dataset), []
    for key, fields in samples:
        rows.append(row_of(encoder, key, fields))
        if progress is not None and len(rows) % _BLOCK == 0:
            progress(len(rows), max(total, len(rows)))
    if progress is not None:
        progress(len(rows), len(rows))
    return LeafTable.of([Part.of(dataset, rows)])
