"""Commitments to datasets: order-free sums, keyed trees, and data that is checked before it is used.

:func:`commit` makes a commitment, :mod:`holdfast.signing.datasets` signs and verifies it, :func:`checked` holds every
sample against it while a network trains. The bytes are specified in ``docs/formats/dataset-commitment.md``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

from holdfast.data.commitments.checker import Checker, Epoch
from holdfast.data.commitments.commitment import (
    Commitment,
    Committed,
    SourceSummary,
    committed,
    merge,
    shared_rows,
    subtract,
    summary,
)
from holdfast.data.commitments.comparing import Differences, compare
from holdfast.data.commitments.element import Element, Encoder, Fields
from holdfast.data.commitments.merkle import InclusionProof
from holdfast.data.commitments.multiset import MultisetHash
from holdfast.data.commitments.predicate import from_predicate, to_predicate
from holdfast.data.commitments.samples import MapStyle, Progress, image_multiset, keyed, table_of
from holdfast.data.commitments.sources import Source, open_source, sources
from holdfast.data.commitments.stream import VerifiedStream, checked_stream
from holdfast.data.commitments.table import LeafTable
from holdfast.data.commitments.table_file import read_table, write_table
from holdfast.data.commitments.values import Value
from holdfast.data.commitments.verified import VerifiedImages, VerifiedSamples, checked
from holdfast.data.dataset import Dataset
from holdfast.errors import InvalidConfig

__all__ = [
    "Checker",
    "Commitment",
    "Committed",
    "Differences",
    "Element",
    "Encoder",
    "Epoch",
    "InclusionProof",
    "LeafTable",
    "MapStyle",
    "MultisetHash",
    "Source",
    "SourceSummary",
    "Value",
    "VerifiedImages",
    "VerifiedSamples",
    "VerifiedStream",
    "checked",
    "checked_stream",
    "commit",
    "committed",
    "compare",
    "from_predicate",
    "image_multiset",
    "merge",
    "open_source",
    "read_table",
    "shared_rows",
    "sources",
    "subtract",
    "summary",
    "to_predicate",
    "write_table",
]


def commit(
    data: Dataset | MapStyle | Source | Iterable[tuple[str, Fields]],
    name: str | None = None,
    *,
    keys: Sequence[str] | None = None,
    fields: Sequence[str] = ("sample", "label"),
    progress: Progress | None = None,
) -> Committed:
    """Return the commitment to all samples of ``data`` as they are, before any augmentation.

    Args:
        data: a dataset of ours, a map-style dataset, a source, or a stream of (key, fields).
        name: the dataset id, hashed into every sample; by default the dataset's own name.
        keys: a stable key per sample of a dataset; places by default.
        fields: names of the parts of a sample that is a tuple.
        progress: called with (done, total).

    Raises:
        InvalidConfig: no name, no samples, a key twice, or a value without an encoding; key and field are named.
    """
    chosen = name if name is not None else getattr(data, "name", None)
    if not isinstance(chosen, str):
        raise InvalidConfig("the dataset has no name of its own", hint="give name=...")
    samples, total = _stream(data, keys, fields)
    return committed(chosen, table_of(chosen, samples, total=total, progress=progress))


def _stream(
    data: Dataset | MapStyle | Source | Iterable[tuple[str, Fields]], keys: Sequence[str] | None, names: Sequence[str]
) -> tuple[Iterable[tuple[str, Fields]], int]:
    if isinstance(data, Dataset):
        return keyed(data, keys, names), len(data)
    if callable(read := getattr(data, "samples", None)):
        return read(), len(cast("Source", data))
    if hasattr(data, "__getitem__") and not isinstance(data, list | tuple):
        mapped = cast("MapStyle", data)
        return keyed(mapped, keys, names), len(mapped)
    return cast("Iterable[tuple[str, Fields]]", data), 0
