"""Streams of samples that are checked before they are used: shards and rows too many for memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

from torch.utils.data import IterableDataset, get_worker_info

from holdfast.data.commitments.checker import Checker, Key
from holdfast.data.commitments.commitment import Committed
from holdfast.data.commitments.element import Encoder, Fields
from holdfast.data.commitments.sources import Source
from holdfast.data.commitments.table import ids_of
from holdfast.data.commitments.verified import Counted, full_key
from holdfast.errors import DigestMismatch, InvalidConfig

_BLOCK = 32  # samples that are checked together; nothing is handed out before its block is


class VerifiedStream(Counted, IterableDataset[Any]):
    """The samples of a source in its own order, each handed out only if it is the committed one.

    In the workers of a loader every worker reads the whole stream and checks, counts and hands out its share of it.
    Which keys there are is known when the stream ends, so it is :meth:`require_complete` that finds missing ones.

    Args:
        source: gives (key, fields), as :func:`open_source` opens them.
        checker: over all keys that are committed under ``dataset``.
        dataset: the dataset id the samples were committed under.
        transform: called with the fields of each checked sample: decoding and augmentation belong here.
    """

    def __init__(
        self, source: Source, checker: Checker, dataset: str, *, transform: Callable[[Fields], Any] | None = None
    ) -> None:
        self.source, self.checker, self.dataset, self.transform = source, checker, dataset, transform
        names = checker.table.names
        self._indices = {names[place]: index for index, place in enumerate(checker.places)}

    def __iter__(self) -> Iterator[Any]:
        """Yield the fields of each sample, or what ``transform`` makes of them.

        Raises:
            DigestMismatch: a sample that is not committed, or not as it was; key and field are named.
        """
        worker = get_worker_info()
        share = islice(self.source.samples(), worker.id, None, worker.num_workers) if worker else self.source.samples()
        encoder = Encoder(self.dataset)
        while block := list(islice(share, _BLOCK)):
            elements = [encoder.element(key, fields) for key, fields in block]
            indices, digests = [self._index(key) for key, _ in block], [item.digest for item in elements]
            places = self.checker.located(indices, digests, lambda at, block=block: block[at][1])  # type: ignore[misc]
            for _, fields in block:
                yield fields if self.transform is None else self.transform(fields)
            # counted when all of it was taken: a stream that is left half-way has samples missing
            self.checker.account.add(places, digests, sum(item.size for item in elements))

    def _index(self, key: str) -> int:
        index = self._indices.get((self.dataset, key))
        if index is None:
            raise DigestMismatch(f"extra in the stream, not in {self.commitment.name}: {ids_of([(self.dataset, key)])}")
        return index


def checked_stream(
    source: Source,
    whole: Committed,
    *,
    dataset: str | None = None,
    subset: Iterable[str | Key] | None = None,
    transform: Callable[[Fields], Any] | None = None,
) -> VerifiedStream:
    """Return ``source`` so that every sample is held against ``whole`` before it is used.

    Nothing here looks at signatures: :func:`holdfast.signing.datasets.verified_stream` does, and then calls this.

    Args:
        source: gives (key, fields).
        whole: the commitment and its table.
        dataset: the id the samples were committed under; needed where there are several.
        subset: keys of the samples that an epoch is to use; all under that id by default.
        transform: called with the fields of each checked sample.

    Raises:
        InvalidConfig: the id is not said, or is none of the commitment's.
        DigestMismatch: the subset names a sample that is not committed.
    """
    chosen, _ = full_key("any", whole, dataset)
    keys = [name for name in whole.table.names if name[0] == chosen]
    wanted = None if subset is None else [full_key(key, whole, dataset) for key in subset]
    if wanted is not None and any(name != chosen for name, _ in wanted):
        raise InvalidConfig(f"the subset names samples of others than {chosen}")
    return VerifiedStream(source, Checker(whole, keys, wanted), chosen, transform=transform)
