"""The manifest of a model: one leaf per tensor and per fact of structure, and one digest over all leaves.

Hashing tensors alone is blind to structure: a guarded and a plain model would have equal digests. So the
architecture, the number formats, the lineage and the guard bounds are leaves as well.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from blake3 import blake3

from holdfast.errors import DigestMismatch, InvalidConfig
from holdfast.evidence import canonical

_CONTEXT = "holdfast 2026 manifest v1"


@dataclass(frozen=True, slots=True)
class Leaf:
    """One named part of a subject: ``kind`` is ``tensor``, ``fact`` or ``file``; ``digest`` is BLAKE3 hex."""

    kind: str
    name: str
    digest: str


def fact(name: str, value: object) -> Leaf:
    """Return the leaf of a JSON value, hashed in canonical form."""
    return Leaf("fact", name, blake3(canonical.dumps(value)).hexdigest())


@dataclass(frozen=True)
class Manifest:
    """An ordered, duplicate-free set of leaves."""

    leaves: tuple[Leaf, ...]

    @classmethod
    def of(cls, leaves: Iterable[Leaf]) -> Manifest:
        """Sort ``leaves``; refuse two of one kind and name."""
        ordered = tuple(sorted(leaves, key=lambda leaf: (leaf.kind, leaf.name)))
        for before, after in pairwise(ordered):
            if (before.kind, before.name) == (after.kind, after.name):
                raise InvalidConfig(f"the manifest names the {after.kind} {after.name!r} twice")
        return cls(ordered)

    @cached_property
    def digest(self) -> str:
        """BLAKE3 (hex) over the canonical list of all leaves: the identity of the subject."""
        rows = [[leaf.kind, leaf.name, leaf.digest] for leaf in self.leaves]
        return blake3(canonical.dumps(rows), derive_key_context=_CONTEXT).hexdigest()

    def differences(self, other: Manifest) -> list[str]:
        """Return one line per leaf that is missing, new or changed in ``other``; empty when equal."""
        mine = {(leaf.kind, leaf.name): leaf.digest for leaf in self.leaves}
        theirs = {(leaf.kind, leaf.name): leaf.digest for leaf in other.leaves}
        lines = [f"{kind} {name} is missing" for kind, name in sorted(mine.keys() - theirs.keys())]
        lines += [f"{kind} {name} is new" for kind, name in sorted(theirs.keys() - mine.keys())]
        shared = sorted(mine.keys() & theirs.keys())
        return lines + [f"{key[0]} {key[1]} differs" for key in shared if mine[key] != theirs[key]]

    def require_equal(self, other: Manifest) -> None:
        """Raise :class:`DigestMismatch` naming what differs, if anything does."""
        if lines := self.differences(other):
            raise DigestMismatch("; ".join(lines[:5]) + (f"; and {len(lines) - 5} more" if len(lines) > 5 else ""))
