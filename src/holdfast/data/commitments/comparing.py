"""A whole dataset against a commitment: everything that is missing, extra, repeated or changed, by key."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from holdfast.data.commitments.commitment import Committed
from holdfast.data.commitments.element import Encoder, Fields
from holdfast.data.commitments.samples import Progress
from holdfast.data.commitments.table import differing_fields, ids_of
from holdfast.errors import DigestMismatch

_EVERY = 256


@dataclass(frozen=True, kw_only=True)
class Differences:
    """What a dataset has otherwise than its commitment; keys with the fields that differ for changed samples."""

    missing: tuple[tuple[str, str], ...]
    extra: tuple[tuple[str, str], ...]
    repeated: tuple[tuple[str, str], ...]
    changed: tuple[tuple[tuple[str, str], tuple[str, ...]], ...]
    count: int  # samples read

    def require_none(self, name: str) -> None:
        """Raise :class:`DigestMismatch` if there are any; counts, and the first of each kind, are named."""
        words = [
            f"{len(keys)} {what}: {ids_of(keys)}"
            for what, keys in (("missing", self.missing), ("extra", self.extra), ("repeated", self.repeated))
            if keys
        ]
        if self.changed:
            (dataset, key), fields = self.changed[0]
            words.append(f"{len(self.changed)} changed, first {key!r} of {dataset}: {', '.join(fields)}")
        if words:
            raise DigestMismatch(f"the data is not {name} as signed: {'; '.join(words)}")


def compare(
    whole: Committed, dataset: str, samples: Iterable[tuple[str, Fields]], *, progress: Progress | None = None
) -> Differences:
    """Return how ``samples``, hashed under the id ``dataset``, differ from those committed under it.

    Args:
        whole: the commitment and its table.
        dataset: one of its dataset ids.
        samples: (key, fields) in any order.
        progress: called with (done, total).
    """
    summary, encoder = whole.commitment.source(dataset), Encoder(dataset)
    seen = np.zeros(len(whole.table), np.int64)
    extra, changed = [], []
    count = 0
    for count, (key, fields) in enumerate(samples, 1):
        digest, place = encoder.element(key, fields).digest, whole.table.places.get((dataset, key))
        if place is None:
            extra.append((dataset, key))
            continue
        seen[place] += 1
        row = whole.table.rows[place]
        if row.digest != digest:
            changed.append(((dataset, key), tuple(differing_fields(row, fields) or ["the sample differs"])))
        if progress is not None and count % _EVERY == 0:
            progress(count, max(count, summary.multiset.count))
    names = whole.table.names
    return Differences(
        missing=tuple(name for name, times in zip(names, seen, strict=True) if name[0] == dataset and not times),
        extra=tuple(extra),
        repeated=tuple(names[place] for place in np.flatnonzero(seen > 1)),
        changed=tuple(changed),
        count=count,
    )
