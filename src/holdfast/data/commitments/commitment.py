"""What is signed about a dataset: the order-free sum and the keyed root, whole and for each of its sources."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from holdfast.data.commitments.element import name_bytes
from holdfast.data.commitments.multiset import MultisetHash
from holdfast.data.commitments.table import LeafTable, table_digest
from holdfast.data.commitments.table_file import write_table
from holdfast.errors import DigestMismatch, InvalidConfig


@dataclass(frozen=True, kw_only=True)
class SourceSummary:
    """One source: all samples that were hashed under one dataset id."""

    dataset: str
    multiset: MultisetHash
    root: str  # Merkle root over its samples alone, hex
    signer: str | None = (
        None  # the provider whose own statement was verified: a key's fingerprint; None if there is none
    )


@dataclass(frozen=True, kw_only=True)
class Commitment:
    """The content of a signed statement.

    Attributes:
        name: of the whole; the ids that are hashed into samples are those of the sources.
        multiset: the sum over all sources.
        root: Merkle root over all samples, sources in order of id, samples in order of key (hex).
        leaves: digest of the leaf table's bytes (hex).
        leaves_size: how many bytes those are.
        sources: at least one, in ascending order of id.

    Raises:
        DigestMismatch: the sources do not add up to the whole.
    """

    name: str
    multiset: MultisetHash
    root: str
    leaves: str
    leaves_size: int
    sources: tuple[SourceSummary, ...]

    def __post_init__(self) -> None:
        name_bytes(self.name, "name of a dataset")
        ids = [name_bytes(source.dataset, "dataset id") for source in self.sources]
        if not ids or any(after <= before for before, after in pairwise(ids)):
            raise InvalidConfig("a commitment has sources in ascending order, each once")
        if sum((source.multiset for source in self.sources), MultisetHash()) != self.multiset:
            raise DigestMismatch(f"the sources of {self.name} do not add up to it")
        if not self.multiset.count:
            raise InvalidConfig(f"{self.name} has no samples")

    @property
    def digest(self) -> str:
        """The name of the multiset (hex): what lineage and policies refer to."""
        return self.multiset.digest

    def source(self, dataset: str) -> SourceSummary:
        """Return the source with this id; raise :class:`InvalidConfig` where there is none."""
        for source in self.sources:
            if source.dataset == dataset:
                return source
        known = ", ".join(source.dataset for source in self.sources)
        raise InvalidConfig(f"{self.name} has no source {dataset!r}", hint=f"it has {known}")


@dataclass(frozen=True, kw_only=True)
class Committed:
    """A commitment and the table that belongs to it.

    Raises:
        DigestMismatch: the table is another one's: its bytes, roots or sums differ; says which.
    """

    commitment: Commitment
    table: LeafTable

    def __post_init__(self) -> None:
        whole, table = self.commitment, self.table
        parts = [(part.dataset, part.multiset, part.root) for part in table.parts]
        summaries = [(source.dataset, source.multiset, source.root) for source in whole.sources]
        for what, found, signed in (
            ("sources", [name for name, _, _ in parts], [name for name, _, _ in summaries]),
            ("sums or roots of its sources", parts, summaries),
            ("sum", table.multiset, whole.multiset),
            ("root", table.root, whole.root),
            ("length", len(write_table(table)), whole.leaves_size),
            ("bytes", table_digest(write_table(table)), whole.leaves),
        ):
            if found != signed:
                raise DigestMismatch(f"the leaf table is not that of {whole.name}: its {what} differ")


def committed(name: str, table: LeafTable, signers: Mapping[str, str] | None = None) -> Committed:
    """Return the commitment to the samples of ``table``; ``signers`` maps ids to fingerprints of their providers."""
    known = signers or {}
    sources = tuple(
        SourceSummary(dataset=part.dataset, multiset=part.multiset, root=part.root, signer=known.get(part.dataset))
        for part in table.parts
    )
    whole = Commitment(
        name=name,
        multiset=table.multiset,
        root=table.root,
        leaves=table_digest(write_table(table)),
        leaves_size=len(write_table(table)),
        sources=sources,
    )
    return Committed(commitment=whole, table=table)


def merge(name: str, parts: Sequence[Committed], signers: Mapping[str, str] | None = None) -> Committed:
    """Return the commitment to all samples of ``parts``; states are added, tables joined.

    Parts with one dataset id become one source.

    Raises:
        InvalidConfig: no parts, or two of them share a sample's id and key.
        DigestMismatch: the joined table does not have the sum of the states.
    """
    result = committed(name, LeafTable.of(part for item in parts for part in item.table.parts), signers)
    if sum((item.commitment.multiset for item in parts), MultisetHash()) != result.commitment.multiset:
        raise DigestMismatch(f"the parts of {name} do not add up to it")
    return result


def subtract(whole: Committed, leaving: Iterable[tuple[str, str]], name: str | None = None) -> Committed:
    """Return the commitment without the samples named by (dataset id, key); their data is not needed.

    A source that loses samples is no longer the one its provider signed, so it keeps no signer.

    Raises:
        InvalidConfig: one is not there, or nothing is left.
    """
    listed = list(leaving)
    touched = {dataset for dataset, _ in listed}
    signers = {source.dataset: source.signer for source in whole.commitment.sources if source.dataset not in touched}
    rest = committed(
        name or whole.commitment.name,
        whole.table.without(listed),
        {dataset: signer for dataset, signer in signers.items() if signer},
    )
    gone = [(whole.table.rows[whole.table.places[item]], item) for item in listed]
    taken = MultisetHash.of((row.digest for row, _ in gone), size=sum(row.size for row, _ in gone))
    if whole.commitment.multiset - taken != rest.commitment.multiset:
        raise DigestMismatch(f"what is left of {whole.commitment.name} is not the difference of the sums")
    return rest


def shared_rows(whole: Committed, other: Committed) -> list[tuple[str, str]]:
    """Return the (dataset id, key) of all samples of ``other``, each of which must be in ``whole`` as it is.

    Raises:
        DigestMismatch: one is not, or is another sample there.
    """
    result: list[tuple[str, str]] = []
    for dataset, row in other.table:
        place = whole.table.places.get((dataset, row.key))
        if place is None or whole.table.rows[place].digest != row.digest:
            raise DigestMismatch(f"{row.key!r} of {dataset} is not the same sample in {whole.commitment.name}")
        result.append((dataset, row.key))
    return result


def summary(commitment: Commitment) -> dict[str, Any]:
    """Return what a person or a program wants to see of a commitment."""
    return {
        "name": commitment.name,
        "digest": commitment.digest,
        "root": commitment.root,
        "count": commitment.multiset.count,
        "bytes": commitment.multiset.size,
        "sources": {
            source.dataset: {"count": source.multiset.count, "digest": source.multiset.digest, "signer": source.signer}
            for source in commitment.sources
        },
    }
