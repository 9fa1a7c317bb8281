"""Outboards: every range of every size verifies, nothing else does, and an independent reading agrees."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path

import pytest
from blake3 import blake3

from holdfast.errors import DigestMismatch, InvalidConfig, UnreadableArtifact
from holdfast.evidence.outboard import Outboard, OutboardBuilder, build_outboard, outboard_and_digest
from holdfast.evidence.outboard_proof import Proof

KIB = 1 << 10
SIZES = [0, 1, KIB - 1, KIB, KIB + 1, 2 * KIB, 3 * KIB, 3 * KIB + 5, 4 * KIB, 5 * KIB + 1, 7 * KIB, 16 * KIB + 1]
VECTORS = Path(__file__).parents[2] / "vectors" / "outboard" / "vectors.json"


def octets(size: int) -> bytes:
    """Byte i of the vectors' input: the sequence of BLAKE3's own test vectors."""
    return bytes(i % 251 for i in range(size))


def reader(data: bytes):
    return lambda offset, length: data[offset : offset + length]


class CountingFile:
    def __init__(self, data: bytes) -> None:
        self.data, self.bytes_read = data, 0

    def read(self, offset: int, length: int) -> bytes:
        self.bytes_read += length
        return self.data[offset : offset + length]


def root_by_recursion(data: bytes, group: int) -> str:
    """The definition of docs/formats/outboard.md, from the top instead of from the leaves."""
    leaf, node, root = (
        blake3(derive_key_context=f"holdfast 2026 outboard {k} v1").digest() for k in ("leaf", "node", "root")
    )

    def tree(part: bytes) -> bytes:
        groups = -(-len(part) // group)
        if groups <= 1:
            return blake3(part, key=leaf).digest()
        left = group << ((groups - 1).bit_length() - 1)
        return blake3(tree(part[:left]) + tree(part[left:]), key=node).digest()

    lengths = len(data).to_bytes(8, "little") + group.to_bytes(4, "little")
    return blake3(lengths + tree(data), key=root).hexdigest()


@pytest.mark.parametrize("size", SIZES)
def test_the_root_is_the_one_of_the_specification(size: int):
    data = octets(size)
    assert build_outboard([data], group=KIB).root == root_by_recursion(data, KIB)


@pytest.mark.parametrize("entry", json.loads(VECTORS.read_text())["vectors"], ids=lambda e: f"{e['size']}/{e['group']}")
def test_published_vectors(entry: dict):
    data = octets(entry["size"])
    outboard, digest = outboard_and_digest([data], group=entry["group"])
    assert (outboard.root, digest) == (entry["root"], entry["blake3"])
    assert blake3(outboard.to_bytes()).hexdigest() == entry["obao_blake3"]


@pytest.mark.parametrize("size", SIZES)
def test_any_pieces_give_the_same_outboard(size: int, tmp_path: Path):
    data, rng, builder, place = octets(size), random.Random(size), OutboardBuilder(KIB), 0
    while place < size:
        step = rng.choice([1, 7, KIB - 1, KIB, 3 * KIB + 1])
        builder.update(memoryview(data)[place : place + step])
        place += step
    (tmp_path / "f").write_bytes(data)
    found = [
        builder.finish(),
        build_outboard(io.BytesIO(data), group=KIB),
        build_outboard(tmp_path / "f", group=KIB),
    ]
    assert found == [build_outboard([data], group=KIB)] * 3


@pytest.mark.parametrize("size", SIZES)
def test_every_range_comes_back_and_only_its_groups_are_read(size: int):
    data, rng = octets(size), random.Random(1)
    outboard = build_outboard([data], group=KIB)
    for _ in range(50):
        start, stop = sorted(rng.randrange(size + 1) for _ in range(2))
        handle = CountingFile(data)
        assert outboard.verify_range(handle.read, start, stop) == data[start:stop]
        assert handle.bytes_read <= stop - start + 2 * KIB


@pytest.mark.parametrize("size", [s for s in SIZES if s])
def test_one_flipped_bit_anywhere_is_found_and_its_group_named(size: int):
    data, rng = octets(size), random.Random(2)
    outboard = build_outboard([data], group=KIB)
    for _ in range(20):
        place = rng.randrange(size)
        changed = bytearray(data)
        changed[place] ^= 1 << rng.randrange(8)
        group = place // KIB * KIB
        span = group, min(group + KIB, size)
        assert list(outboard.damaged(reader(bytes(changed)))) == [span]
        with pytest.raises(DigestMismatch, match=f"{span[0]}:{span[1]} of weights differ"):
            outboard.verify_range(reader(bytes(changed)), place, place + 1, name="weights")


def test_a_short_read_a_longer_one_and_swapped_groups_are_refused():
    data = octets(4 * KIB)
    outboard = build_outboard([data], group=KIB)
    for lie in (data[: 2 * KIB + 100], data[KIB : 2 * KIB] + data[:KIB] + data[2 * KIB :]):
        with pytest.raises(DigestMismatch):
            outboard.verify_range(reader(lie), 0, len(data))
    with pytest.raises(DigestMismatch):
        outboard.verify_range(lambda offset, length: data[offset : offset + length + 1], 0, KIB)


def test_ranges_outside_the_file_are_refused():
    outboard = build_outboard([octets(KIB)], group=KIB)
    for start, stop in ((-1, 1), (2, 1), (0, KIB + 1)):
        with pytest.raises(InvalidConfig):
            outboard.verify_range(reader(octets(KIB)), start, stop)


@pytest.mark.parametrize("size", SIZES)
def test_proofs_need_the_root_alone_and_round_trip(size: int):
    data, rng = octets(size), random.Random(3)
    outboard = build_outboard([data], group=KIB)
    for _ in range(30):
        start, stop = sorted(rng.randrange(size + 1) for _ in range(2))
        proof = Proof.from_bytes(outboard.prove(start, stop).to_bytes())
        first, last = proof.span
        assert first <= start
        assert stop <= last
        proof.verify(data[first:last], outboard.root)
        assert len(proof.digests) <= 2 * max(1, (outboard.shape.count - 1).bit_length())


def test_every_changed_bit_of_a_proof_or_its_data_is_refused():
    data = octets(5 * KIB + 1)
    outboard = build_outboard([data], group=KIB)
    good = outboard.prove(2 * KIB, 2 * KIB + 10)
    first, last = good.span
    raw = good.to_bytes()
    for bit in range(0, 8 * len(raw), 3):
        bad = bytearray(raw)
        bad[bit // 8] ^= 1 << bit % 8
        with pytest.raises((DigestMismatch, UnreadableArtifact)):
            Proof.from_bytes(bytes(bad)).verify(data[first:last], outboard.root)
    for lie in (data[first : last - 1], data[first:last] + b"x", data[:KIB], b""):
        with pytest.raises(DigestMismatch):
            good.verify(lie, outboard.root)
    for digests in (good.digests[:-1], (*good.digests, bytes(32)), good.digests[::-1]):
        with pytest.raises(DigestMismatch):
            Proof(good.shape, good.wanted, digests).verify(data[first:last], outboard.root)


def test_the_file_is_read_strictly_and_bound_to_its_signed_root(tmp_path: Path):
    data = octets(3 * KIB + 5)
    outboard = build_outboard([data], group=KIB)
    raw = outboard.to_bytes()
    assert Outboard.from_bytes(raw, root=outboard.root, size=len(data)) == outboard
    for bit in range(8 * len(raw)):
        bad = bytearray(raw)
        bad[bit // 8] ^= 1 << bit % 8
        with pytest.raises((DigestMismatch, UnreadableArtifact)):
            Outboard.from_bytes(bytes(bad), root=outboard.root, size=len(data))
    for bad in (b"", raw[:19], raw[:-1], raw + b"\0", raw + bytes(32)):
        with pytest.raises(UnreadableArtifact):
            Outboard.from_bytes(bad, root=outboard.root, size=len(data))
    (tmp_path / "w.obao").write_bytes(build_outboard([data[:-1]], group=KIB).to_bytes())
    with pytest.raises(DigestMismatch, match=r"w\.obao: "):
        Outboard.from_file(tmp_path / "w.obao", root=outboard.root, size=len(data))


def test_leaf_node_and_root_never_pass_for_each_other():
    left, right = octets(KIB), octets(2 * KIB)[KIB:]
    two = build_outboard([left + right], group=KIB)
    fake = two.leaf(0) + two.leaf(1)  # the bytes under the inner node, offered as a file of one group
    assert build_outboard([fake], group=KIB).root != two.root
    assert build_outboard([left + right], group=2 * KIB).root != two.root
    assert build_outboard([b""], group=KIB).root != build_outboard([b"\0"], group=KIB).root


@pytest.mark.parametrize("group", [0, 512, 3 * KIB, 2 << 20])
def test_odd_groups_are_refused(group: int):
    with pytest.raises(InvalidConfig):
        OutboardBuilder(group)
