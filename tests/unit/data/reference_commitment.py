"""The commitment again, from docs/formats/dataset-commitment.md, with Python integers and no arrays."""

from __future__ import annotations

from blake3 import blake3


def number(value):
    return value.to_bytes(8, "little")


def prefixed(data):
    return number(len(data)) + data


def element(dataset, key, fields):
    """``fields`` maps a name to (dtype, shape, bytes)."""
    names = sorted(fields, key=lambda name: name.encode())
    schema = number(len(names))
    for name in names:
        dtype, shape, _ = fields[name]
        schema += prefixed(name.encode()) + prefixed(dtype.encode()) + number(len(shape))
        schema += b"".join(number(side) for side in shape)
    data = b"".join(prefixed(fields[name][2]) for name in names)
    whole = prefixed(dataset.encode()) + prefixed(schema) + prefixed(key.encode()) + data
    return blake3(whole, derive_key_context="holdfast 2026 dataset element v1").digest()


def lanes(digest):
    octets = blake3(digest, derive_key_context="holdfast 2026 dataset lattice v1").digest(2048)
    return [octets[2 * lane] + 256 * octets[2 * lane + 1] for lane in range(1024)]


def multiset(digests, size):
    """Return (state, digest hex)."""
    total = [0] * 1024
    for digest in digests:
        total = [(one + other) % 65536 for one, other in zip(total, lanes(digest), strict=True)]
    state = b"".join(lane.to_bytes(2, "little") for lane in total)
    head = number(len(digests)) + number(size)
    return state, blake3(head + state, derive_key_context="holdfast 2026 dataset multiset v1").hexdigest()


def tree(data):
    return blake3(data, derive_key_context="holdfast 2026 dataset tree v1").digest()


def leaf(dataset, key, size, digest):
    return tree(b"\x00" + prefixed(dataset.encode()) + prefixed(key.encode()) + number(size) + digest)


def root(leaves):
    """RFC 6962's recursive definition: the left part is the largest power of two below the number of leaves."""
    if len(leaves) == 1:
        return leaves[0]
    half = 1
    while 2 * half < len(leaves):
        half *= 2
    return tree(b"\x01" + root(leaves[:half]) + root(leaves[half:]))
