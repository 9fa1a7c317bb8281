"""Equivalence classes by joint hashes: platforms are apart when some subject that both answered shows other bits."""

from __future__ import annotations

from collections.abc import Mapping

from holdfast.identification.library.records import EquivalenceClass

Row = Mapping[str, str]  # subject name -> digest of output bits


def equivalence_classes(rows: Mapping[str, Row]) -> tuple[EquivalenceClass, ...]:
    """Return the classes of labelled rows, by first label.

    A platform that answered fewer subjects merges with whatever it agrees with, and platforms it links become one
    class: what was not shown to differ is not counted twice.
    """
    groups: list[tuple[set[str], list[Row]]] = []
    for label, row in sorted(rows.items()):
        near = [group for group in groups if any(_agree(row, other) for other in group[1])]
        merged = ({label}.union(*(group[0] for group in near)), [row, *(item for group in near for item in group[1])])
        groups = [group for group in groups if group not in near] + [merged]
    found = [EquivalenceClass(tuple(sorted(labels)), _shared(members)) for labels, members in groups]
    return tuple(sorted(found, key=lambda item: item.labels))


def _agree(one: Row, other: Row) -> bool:
    """Whether no common subject tells two rows apart."""
    return all(one[name] == other[name] for name in one.keys() & other.keys())


def _shared(members: list[Row]) -> dict[str, str]:
    """Return the digests on which all members that have one agree."""
    names = sorted({name for row in members for name in row})
    values = {name: {row[name] for row in members if name in row} for name in names}
    return {name: next(iter(found)) for name, found in values.items() if len(found) == 1}
