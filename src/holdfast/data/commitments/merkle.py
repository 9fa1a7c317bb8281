"""A Merkle tree over the samples in key order, shaped and domain-separated as in RFC 6962, hashed with BLAKE3.

A leaf binds the dataset's id, the key, the size and the element's digest, so a proof says where a sample stands as well
as what it is. A leaf starts with byte 0, a node with byte 1, and both have contexts of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from blake3 import blake3

from holdfast.data.commitments.element import Encoder, Fields, name_bytes, prefixed, u64
from holdfast.errors import DigestMismatch, InvalidConfig, UnreadableArtifact

TREE_CONTEXT = "holdfast 2026 dataset tree v1"


def leaf_hash(dataset: str, key: str, size: int, digest: bytes) -> bytes:
    """Return the leaf of one sample."""
    parts = (prefixed(name_bytes(dataset, "dataset id")), prefixed(key.encode()), u64(size), digest)
    return blake3(b"\x00" + b"".join(parts), derive_key_context=TREE_CONTEXT).digest()


def _node(left: bytes, right: bytes) -> bytes:
    return blake3(b"\x01" + left + right, derive_key_context=TREE_CONTEXT).digest()


def _level_above(level: Sequence[bytes]) -> list[bytes]:
    """Return the next level; an odd node at the end moves up as it is, which gives RFC 6962's shape."""
    above = [_node(level[at], level[at + 1]) for at in range(0, len(level) - 1, 2)]
    return above + list(level[len(level) - len(level) % 2 :])


def merkle_root(leaves: Sequence[bytes]) -> bytes:
    """Return the root over at least one leaf.

    Raises:
        InvalidConfig: there are none.
    """
    if not leaves:
        raise InvalidConfig("a tree has at least one leaf", hint="an empty dataset has no commitment")
    level = list(leaves)
    while len(level) > 1:
        level = _level_above(level)
    return level[0]


def inclusion_path(leaves: Sequence[bytes], index: int) -> tuple[bytes, ...]:
    """Return the siblings from the leaf at ``index`` up to the root (RFC 6962, section 2.1.1)."""
    path, level = [], list(leaves)
    while len(level) > 1:
        if index ^ 1 < len(level):
            path.append(level[index ^ 1])
        level, index = _level_above(level), index // 2
    return tuple(path)


def root_of_path(leaf: bytes, index: int, count: int, path: Sequence[bytes]) -> bytes:
    """Return the root that a leaf at ``index`` of ``count`` and its path lead to.

    Raises:
        DigestMismatch: the path has another length than that place in a tree of that size.
    """
    node, rest = leaf, list(path)
    while count > 1:
        if index ^ 1 < count:
            if not rest:
                raise DigestMismatch("the inclusion proof is too short")
            sibling = rest.pop(0)
            node = _node(sibling, node) if index & 1 else _node(node, sibling)
        index, count = index // 2, (count + 1) // 2
    if rest:
        raise DigestMismatch("the inclusion proof is too long")
    return node


@dataclass(frozen=True, slots=True, kw_only=True)
class InclusionProof:
    """Evidence that one sample is among those under a root; it needs neither the table nor the other samples."""

    dataset: str
    key: str
    index: int  # place in key order
    count: int  # samples under the root
    size: int  # bytes of the sample's fields
    digest: str  # of the element, hex
    path: tuple[str, ...]  # hex, from the leaf upwards

    def require(self, root: str, count: int, fields: Fields) -> None:
        """Return if ``fields`` is the sample that the proof places under ``root``; raise otherwise.

        Args:
            root: of the signed commitment, hex.
            count: of the signed commitment; the root alone does not fix the size of its tree.
            fields: the sample.

        Raises:
            DigestMismatch: another sample, or the path leads to another root.
        """
        element = Encoder(self.dataset).element(self.key, fields)
        if (element.digest.hex(), element.size) != (self.digest, self.size):
            raise DigestMismatch(f"the sample {self.key!r} is not the one the proof is about")
        if self.count != count or not 0 <= self.index < count:
            raise DigestMismatch(f"the proof places {self.key!r} at {self.index} of {self.count}, not among {count}")
        leaf = leaf_hash(self.dataset, self.key, self.size, element.digest)
        found = root_of_path(leaf, self.index, self.count, [bytes.fromhex(item) for item in self.path])
        if found.hex() != root:
            raise DigestMismatch(f"the proof of {self.key!r} leads to another root")

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {name: getattr(self, name) for name in self.__slots__} | {"path": list(self.path)}

    @classmethod
    def from_json(cls, value: object) -> InclusionProof:
        """Read a proof back; raise :class:`UnreadableArtifact` when a field is missing, new or malformed."""
        kinds = {"dataset": str, "key": str, "index": int, "count": int, "size": int, "digest": str, "path": list}
        if not isinstance(value, dict) or {name: type(item) for name, item in value.items()} != kinds:
            raise UnreadableArtifact("an inclusion proof has exactly dataset, key, index, count, size, digest and path")
        if not all(_is_digest(item) for item in (value["digest"], *value["path"])) or len(value["path"]) > 64:
            raise UnreadableArtifact("an inclusion proof holds digests of 64 lower-case hex digits")
        return cls(**(value | {"path": tuple(value["path"])}))


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")
