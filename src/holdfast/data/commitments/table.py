"""The leaf table: 32 bytes a sample in key order, so that each sample is checked before it is used.

It lies beside the signed commitment, which binds its bytes. Beside the digest of an element it keeps the size of the
fields, so that samples can be taken away from a commitment without their data, and eight bytes a field that say
which one differs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from blake3 import blake3

from holdfast.data.commitments.element import Encoder, Fields, field_tags, name_bytes, typed_fields, value_tags
from holdfast.data.commitments.merkle import InclusionProof, inclusion_path, leaf_hash, merkle_root
from holdfast.data.commitments.multiset import MultisetHash
from holdfast.errors import InvalidConfig

TABLE_CONTEXT = "holdfast 2026 dataset table v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What is kept of one sample."""

    key: str
    digest: bytes  # 32 bytes
    size: int  # bytes of its fields
    tags: tuple[tuple[str, bytes], ...]  # field name and eight bytes each, in name order


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """The rows of one dataset id, ascending in the UTF-8 bytes of their keys, no key twice."""

    dataset: str
    rows: tuple[Row, ...]

    @classmethod
    def of(cls, dataset: str, rows: Iterable[Row]) -> Part:
        """Sort ``rows``.

        Raises:
            InvalidConfig: none at all, a key twice, or a name that is not allowed.
        """
        name_bytes(dataset, "dataset id")
        ordered = sorted(rows, key=lambda row: name_bytes(row.key, "key"))
        if not ordered:
            raise InvalidConfig(f"the dataset {dataset!r} has no samples")
        for before, after in pairwise(ordered):
            if before.key == after.key:
                raise InvalidConfig(
                    f"{dataset} has the key {after.key!r} twice", hint="every sample has a key of its own"
                )
        return cls(dataset=dataset, rows=tuple(ordered))

    @cached_property
    def multiset(self) -> MultisetHash:
        """The multiset hash, from the digests alone."""
        return MultisetHash.of((row.digest for row in self.rows), size=sum(row.size for row in self.rows))

    @cached_property
    def leaves(self) -> tuple[bytes, ...]:
        """The leaves of the tree, in key order."""
        return tuple(leaf_hash(self.dataset, row.key, row.size, row.digest) for row in self.rows)

    @cached_property
    def root(self) -> str:
        """The Merkle root over this part alone (hex)."""
        return merkle_root(self.leaves).hex()


@dataclass(frozen=True, eq=False)
class LeafTable:
    """Parts in ascending order of dataset id, none twice."""

    parts: tuple[Part, ...]

    @classmethod
    def of(cls, parts: Iterable[Part]) -> LeafTable:
        """Sort ``parts``; those with one id must have no key in common and become one.

        Raises:
            InvalidConfig: no parts, or a key that two parts of one dataset share.
        """
        rows: dict[str, list[Row]] = {}
        for part in parts:
            rows.setdefault(part.dataset, []).extend(part.rows)
        if not rows:
            raise InvalidConfig("a commitment has at least one sample")
        ids = sorted(rows, key=lambda item: name_bytes(item, "dataset id"))
        return cls(tuple(Part.of(name, rows[name]) for name in ids))

    def __len__(self) -> int:
        return sum(len(part.rows) for part in self.parts)

    def __iter__(self) -> Iterator[tuple[str, Row]]:
        """Yield (dataset id, row) in the order of the tree."""
        return ((part.dataset, row) for part in self.parts for row in part.rows)

    @cached_property
    def places(self) -> dict[tuple[str, str], int]:
        """The place of every (dataset id, key) in the tree."""
        return {name: place for place, name in enumerate(self.names)}

    @cached_property
    def names(self) -> tuple[tuple[str, str], ...]:
        """(dataset id, key) of every place in the tree."""
        return tuple((name, row.key) for name, row in self)

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        """All rows in the order of the tree."""
        return tuple(row for _, row in self)

    @cached_property
    def digests(self) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
        """All element digests, uint8 (n, 32), in the order of the tree."""
        return np.frombuffer(b"".join(row.digest for row in self.rows), np.uint8).reshape(-1, 32)

    @cached_property
    def multiset(self) -> MultisetHash:
        """The sum over all parts."""
        return sum((part.multiset for part in self.parts), MultisetHash())

    @cached_property
    def root(self) -> str:
        """The Merkle root over all samples (hex): parts in order of id, samples in order of key."""
        return merkle_root(self._leaves).hex()

    @cached_property
    def _leaves(self) -> tuple[bytes, ...]:
        return tuple(leaf for part in self.parts for leaf in part.leaves)

    def prove(self, dataset: str, key: str) -> InclusionProof:
        """Return the proof that the sample ``key`` of ``dataset`` is under :attr:`root`.

        Raises:
            InvalidConfig: there is no such sample.
        """
        place = self.places.get((dataset, key))
        if place is None:
            raise InvalidConfig(f"{dataset} has no sample {key!r}")
        row, path = self.rows[place], inclusion_path(self._leaves, place)
        return InclusionProof(
            dataset=dataset,
            key=key,
            index=place,
            count=len(self),
            size=row.size,
            digest=row.digest.hex(),
            path=tuple(item.hex() for item in path),
        )

    def without(self, leaving: Iterable[tuple[str, str]]) -> LeafTable:
        """Return the table without these (dataset id, key); parts that lose every sample go.

        Raises:
            InvalidConfig: one of them is not there or named twice, or nothing is left.
        """
        listed = list(leaving)
        gone = set(listed)
        if len(gone) != len(listed) or not gone <= self.places.keys():
            strange = min(gone - self.places.keys(), default=None) or next(i for i in listed if listed.count(i) > 1)
            raise InvalidConfig(f"cannot take away {strange[1]!r} of {strange[0]}: it is not there, or named twice")
        kept = ((part, [row for row in part.rows if (part.dataset, row.key) not in gone]) for part in self.parts)
        return LeafTable.of(Part(dataset=part.dataset, rows=tuple(rows)) for part, rows in kept if rows)


def row_of(encoder: Encoder, key: str, fields: Fields) -> Row:
    """Return the row of a sample.

    Raises:
        InvalidConfig: a value without an encoding; key and field are named.
    """
    values = typed_fields(key, fields)
    element = encoder.of_values(key, values)
    return Row(key=key, digest=element.digest, size=element.size, tags=value_tags(values))


def differing_fields(row: Row, fields: Fields) -> list[str]:
    """Return one phrase per field that is missing, new or changed against the committed sample."""
    signed, seen = dict(row.tags), field_tags(row.key, fields)
    phrases = [f"field {name!r} is missing" for name in signed.keys() - seen.keys()]
    phrases += [f"field {name!r} is new" for name in seen.keys() - signed.keys()]
    return sorted(phrases) + [f"field {name!r} differs" for name in seen if signed.get(name, seen[name]) != seen[name]]


def table_digest(data: bytes) -> str:
    """Return the digest (hex) by which a commitment binds the bytes of its table."""
    return blake3(data, derive_key_context=TABLE_CONTEXT).hexdigest()


def ids_of(keys: Sequence[tuple[str, str]], limit: int = 5) -> str:
    """Return the first few (dataset id, key) as text."""
    shown = ", ".join(f"{key!r} of {name}" for name, key in keys[:limit])
    return shown + (f" and {len(keys) - limit} more" if len(keys) > limit else "")
