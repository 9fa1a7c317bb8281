"""Holding samples against a commitment: each one before it is used, and all of them at the end of an epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from blake3 import blake3

from holdfast.data.commitments.account import Account, Places, Totals
from holdfast.data.commitments.commitment import Committed
from holdfast.data.commitments.element import Fields
from holdfast.data.commitments.multiset import MultisetHash, lane_sum
from holdfast.data.commitments.table import LeafTable, differing_fields, ids_of
from holdfast.data.commitments.table_file import read_table, write_table
from holdfast.errors import DigestMismatch, InvalidConfig

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

SUBSET_CONTEXT = "holdfast 2026 dataset subset v1"
Key = tuple[str, str]  # dataset id and sample key
Mask = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """What an epoch used, held against what it should have used; each list names (dataset id, key)."""

    multiset: MultisetHash  # of what was used; a sample that came too often is counted as often as it should have come
    expected: MultisetHash
    missing: tuple[Key, ...]
    extra: tuple[Key, ...]  # committed, but outside the declared subset
    repeated: tuple[Key, ...]  # came more often than it should have
    excess: int  # how many times too many, over all of them
    ranks: int = 1

    def to_json(self) -> dict[str, Any]:
        """Return what a record of a training says of an epoch: digest and counts, not the keys."""
        counts = {name: len(getattr(self, name)) for name in ("missing", "extra", "repeated")}
        return {
            "digest": self.multiset.digest,
            "expected": self.expected.digest,
            "count": self.multiset.count,
            "bytes": self.multiset.size,
            "excess": self.excess,
            "ranks": self.ranks,
            **counts,
        }


class Checker:
    """Knows which row of a leaf table each index of a dataset must match, and counts what was used.

    Args:
        whole: the commitment and its table; who signed it is the caller's business.
        keys: (dataset id, key) of every index of the dataset, in its order.
        subset: the samples an epoch is to use; by default all that are committed under the ids in ``keys``.

    Raises:
        DigestMismatch: the dataset has a key twice, or one that is not committed, or lacks one; named.
        InvalidConfig: an empty dataset or subset.
    """

    def __init__(self, whole: Committed, keys: Sequence[Key], subset: Iterable[Key] | None = None) -> None:
        self.commitment = whole.commitment
        self._parsed: LeafTable | None = whole.table
        self._packed = write_table(whole.table)  # goes to workers, which read it only to explain a difference
        self._digests = whole.table.digests
        self.places = self._located(keys)
        there = np.bincount(self.places, minlength=len(whole.table))
        if (there > 1).any():
            raise DigestMismatch(f"repeated in the dataset: {ids_of(self._keys(there > 1))}")
        self.wanted = self._wanted(keys, subset)
        if (lacking := self.wanted & (there == 0)).any():
            raise DigestMismatch(f"missing from the dataset: {ids_of(self._keys(lacking))}")
        self.account = Account(len(whole.table))

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what can be read again from the bytes of the table."""
        return self.__dict__ | {"_parsed": None}

    @property
    def table(self) -> LeafTable:
        """The leaf table; in a worker it is read on first use."""
        if self._parsed is None:
            self._parsed = read_table(self._packed)
        return self._parsed

    def _located(self, keys: Sequence[Key]) -> Places:
        if not keys:
            raise InvalidConfig("there is nothing to check in an empty dataset")
        known = self.table.places
        if strange := [key for key in keys if key not in known]:
            raise DigestMismatch(f"extra in the dataset, not in {self.commitment.name}: {ids_of(strange)}")
        return np.array([known[key] for key in keys], np.int64)

    def _wanted(self, keys: Sequence[Key], subset: Iterable[Key] | None) -> Mask:
        if subset is None:
            ids = {dataset for dataset, _ in keys}
            return np.array([dataset in ids for dataset, _ in self.table])
        mask, known = np.zeros(len(self.table), bool), self.table.places
        for key in subset:
            if key not in known:
                raise DigestMismatch(f"the subset names {ids_of([key])}, which is not in {self.commitment.name}")
            mask[known[key]] = True
        if not mask.any():
            raise InvalidConfig("a subset holds at least one sample")
        return mask

    def narrowed(self, indices: Sequence[int]) -> Checker:
        """Return the checker of the part of the dataset at ``indices``, which is then all that an epoch is to use."""
        named = self.table.names
        keys = [named[self.places[index]] for index in indices]
        return Checker(Committed(commitment=self.commitment, table=self.table), keys, keys)

    def _keys(self, mask: Mask) -> list[Key]:
        return [self.table.names[place] for place in np.flatnonzero(mask)]

    def located(self, indices: Sequence[int], digests: Sequence[bytes], fields: Callable[[int], Fields]) -> Places:
        """Return the places in the table of a batch if its digests are the committed ones.

        Args:
            indices: of the samples in the dataset.
            digests: 32 bytes each.
            fields: gives the fields of a position of the batch, to explain a difference.

        Raises:
            DigestMismatch: one is another sample; key, index and the fields that differ are named.
        """
        places = self.places[np.asarray(indices, np.int64)]
        found = np.frombuffer(b"".join(digests), np.uint8).reshape(len(places), 32)
        wrong = np.flatnonzero((found != self._digests[places]).any(axis=1))
        if len(wrong):
            self._explain(int(indices[wrong[0]]), fields(int(wrong[0])))
        return places

    def _explain(self, index: int, fields: Fields) -> NoReturn:
        place = int(self.places[index])
        dataset, key = self.table.names[place]
        what = ", ".join(differing_fields(self.table.rows[place], fields)) or "the sample differs"
        raise DigestMismatch(f"{key!r} of {dataset} (index {index}) is not what was signed: {what}")

    def use(self, indices: Sequence[int], digests: Sequence[bytes], size: int, fields: Callable[[int], Fields]) -> None:
        """Check a batch, ``size`` bytes of fields in all, and count it; see :meth:`located`."""
        self.account.add(self.located(indices, digests, fields), digests, size)

    def expected(self, passes: int = 1) -> MultisetHash:
        """Return the multiset that ``passes`` complete epochs use."""
        if self.wanted.all():
            once = self.commitment.multiset
        else:
            rows = [self.table.rows[place] for place in np.flatnonzero(self.wanted)]
            once = MultisetHash.of((row.digest for row in rows), size=sum(row.size for row in rows))
        lanes = (once.lanes.astype(np.uint64) * np.uint64(passes)).astype(np.uint16)  # modulo 2**16
        return MultisetHash.from_lanes(lanes, once.count * passes, once.size * passes)

    def epoch(self, passes: int = 1) -> Epoch:
        """Return what was used since the last complete epoch, held against ``passes`` passes over the data."""
        totals = self.account.totals()
        over = np.where(self.wanted, np.maximum(totals.seen - passes, 0), 0)
        return Epoch(
            multiset=self._without(totals, over),
            expected=self.expected(passes),
            missing=tuple(self._keys(self.wanted & (totals.seen < passes))),
            extra=tuple(self._keys(~self.wanted & (totals.seen > 0))),
            repeated=tuple(self._keys(over > 0)),
            excess=int(over.sum()),
            ranks=totals.ranks,
        )

    def _without(self, totals: Totals, over: np.ndarray[Any, Any]) -> MultisetHash:
        """Take repeats away again by their digests: padding is used, but not counted twice."""
        lanes, size = totals.lanes.copy(), totals.size
        for place in np.flatnonzero(over):
            row = self.table.rows[place]
            once = lane_sum([row.digest]).astype(np.uint64)
            lanes -= (once * np.uint64(over[place])).astype(np.uint16)
            size -= row.size * int(over[place])
        return MultisetHash.from_lanes(lanes, int((totals.seen - over).sum()), size)

    def require_complete(self, *, passes: int = 1, padding: int | None = None) -> Epoch:
        """Return the epoch if exactly the committed samples (or the declared subset) were used, and begin the next one.

        Args:
            passes: how often every sample should have come.
            padding: how many samples too many are accepted; by default what a ``DistributedSampler`` adds to give
                every rank as many: fewer than there are ranks, so none without :meth:`reduce`.

        Raises:
            DigestMismatch: samples are missing, extra or repeated, or the sums differ; the first are named.
        """
        if passes < 1:
            raise InvalidConfig(f"{passes} passes use no sample, so nothing is complete")
        found = self.epoch(passes)
        allowed = found.ranks - 1 if padding is None else padding
        words = [f"{len(keys)} {what}: {ids_of(keys)}" for what, keys in _faults(found, allowed) if keys]
        if words or found.multiset != found.expected:
            raise DigestMismatch(
                f"the epoch did not use {self.commitment.name} as signed: " + ("; ".join(words) or "the sums differ")
            )
        self.account.reset()
        return found

    def reduce(self, group: ProcessGroup | None = None) -> Epoch:
        """Add up what all ranks used (see :meth:`Account.reduce`) and return it."""
        identity = self.commitment.root.encode() + np.packbits(self.wanted).tobytes()
        self.account.reduce(blake3(identity, derive_key_context=SUBSET_CONTEXT).digest(), group)
        return self.epoch()


def _faults(found: Epoch, allowed: int) -> list[tuple[str, tuple[Key, ...]]]:
    repeated = found.repeated if found.excess > allowed else ()
    return [("missing", found.missing), ("extra", found.extra), ("repeated", repeated)]
