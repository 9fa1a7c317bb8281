"""Inclusion in a Merkle tree (RFC 6962, section 2.1; the check is RFC 9162, section 2.1.3.2)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from holdfast.errors import SignatureInvalid


def leaf_hash(entry: bytes) -> bytes:
    """Return the hash of a leaf."""
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of an inner node."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def verify_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> None:
    """Return if the leaf of hash ``leaf`` stands at ``index`` in the tree of ``size`` leaves with root hash ``root``.

    Args:
        leaf: 32 bytes.
        index: place of the leaf, from 0.
        size: number of leaves.
        path: the hashes beside the way up, from the leaf; 32 bytes each, exactly as many as the tree asks for.
        root: 32 bytes.

    Raises:
        SignatureInvalid: the place is outside the tree, the path is too short or too long, or leads elsewhere.
    """
    if not 0 <= index < size:
        raise SignatureInvalid(f"the log entry's place {index} is outside a tree of {size}")
    place, last, value = index, size - 1, leaf
    for sibling in path:
        if last == 0:
            raise SignatureInvalid("the log's inclusion proof is too long")
        if place & 1 or place == last:
            value = node_hash(sibling, value)
            while not place & 1 and place:  # nodes that have no right neighbour move up as they are
                place, last = place >> 1, last >> 1
        else:
            value = node_hash(value, sibling)
        place, last = place >> 1, last >> 1
    if last:
        raise SignatureInvalid("the log's inclusion proof is too short")
    if value != root:
        raise SignatureInvalid("the log's inclusion proof leads to another root")
