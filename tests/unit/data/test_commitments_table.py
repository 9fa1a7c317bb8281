"""The keyed tree and its table: RFC 6962's shape, unique keys, strict bytes, proofs."""

from __future__ import annotations

import dataclasses
import struct

import numpy as np
import pytest

from holdfast.data.commitments.element import Encoder
from holdfast.data.commitments.merkle import InclusionProof, inclusion_path, merkle_root, root_of_path
from holdfast.data.commitments.table import LeafTable, Part, differing_fields, ids_of, row_of
from holdfast.data.commitments.table_file import read_table, write_table
from holdfast.errors import DigestMismatch, InvalidConfig, UnreadableArtifact, UnsupportedVersion

from . import reference_commitment as reference


def sample(number):
    return {"image": np.full((2, 3), number, np.uint8), "label": number % 10}


def part(numbers, dataset="d"):
    encoder = Encoder(dataset)

    return Part.of(dataset, [row_of(encoder, f"{number:04d}", sample(number)) for number in numbers])


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 8, 9, 31])
def test_root_and_paths_are_those_of_rfc_6962(count):
    table = LeafTable.of([part(reversed(range(count)))])
    leaves = [reference.leaf("d", row.key, row.size, row.digest) for row in table.rows]
    assert table.root == reference.root(leaves).hex()
    for place in range(count):
        path = inclusion_path(leaves, place)
        assert root_of_path(leaves[place], place, count, path).hex() == table.root


def test_keys_stand_in_the_order_of_their_bytes():
    assert [row.key for row in part([5, 1, 3]).rows] == ["0001", "0003", "0005"]


def test_a_key_stands_once():
    with pytest.raises(InvalidConfig, match="key '0002' twice"):
        part([1, 2, 2])
    with pytest.raises(InvalidConfig, match="key '0002' twice"):
        LeafTable.of([part([1, 2]), part([2, 3])])
    assert len(LeafTable.of([part([1, 2]), part([2, 3], "other")])) == 4


def test_the_multiset_comes_from_the_digests_alone():
    table = LeafTable.of([part(range(7)), part(range(3), "other")])
    state, digest = reference.multiset([row.digest for row in table.rows], sum(row.size for row in table.rows))
    assert (table.multiset.state, table.multiset.digest, table.multiset.count) == (state, digest, 10)


def test_shards_of_one_dataset_become_one_part():
    whole = LeafTable.of([part(range(9))])
    assert LeafTable.of([part(range(4, 9)), part(range(4))]).root == whole.root
    assert whole.without([("d", "0008"), ("d", "0003")]).root == LeafTable.of([part([0, 1, 2, 4, 5, 6, 7])]).root
    for wrong in ([("d", "0009")], [("e", "0001")], [("d", "0001"), ("d", "0001")]):
        with pytest.raises(InvalidConfig, match="cannot take away"):
            whole.without(wrong)
    with pytest.raises(InvalidConfig, match="at least one"):
        whole.without([("d", row.key) for row in whole.rows])


def test_proofs_stand_alone():
    table = LeafTable.of([part(range(11)), part(range(5), "other")])
    for name, number in (("d", 0), ("d", 10), ("other", 4)):
        proof = InclusionProof.from_json(table.prove(name, f"{number:04d}").to_json())
        proof.require(table.root, len(table), sample(number))
        with pytest.raises(DigestMismatch, match="not the one"):
            proof.require(table.root, len(table), sample(number + 1))
        with pytest.raises(DigestMismatch, match="another root"):
            proof.require("0" * 64, len(table), sample(number))
    with pytest.raises(InvalidConfig, match="no sample"):
        table.prove("d", "0011")


def test_a_bent_proof_proves_nothing():
    table = LeafTable.of([part(range(11))])
    proof = table.prove("d", "0004")
    bent = [
        {"index": 5},
        {"index": 11},
        {"index": -1},
        {"count": 12},
        {"count": 4},
        {"size": 1},
        {"path": proof.path[:-1]},
        {"path": (*proof.path, "0" * 64)},
        {"path": proof.path[::-1]},
        {"dataset": "e"},
        {"key": "0005"},
    ]
    for change in bent:
        with pytest.raises(DigestMismatch):
            dataclasses.replace(proof, **change).require(table.root, 11, sample(4))
    for change in ({"extra": 1}, {"index": "4"}, {"digest": "A" * 64}, {"path": ["x"]}, {"path": ["0" * 64] * 65}):
        with pytest.raises(UnreadableArtifact):
            InclusionProof.from_json(proof.to_json() | change)
    with pytest.raises(UnreadableArtifact):
        InclusionProof.from_json([])


def test_a_node_is_never_a_leaf():
    leaves = [reference.leaf("d", str(number), 1, bytes(32)) for number in range(4)]
    inner = [reference.root(leaves[:2]), reference.root(leaves[2:])]
    assert merkle_root(inner) == merkle_root(leaves)  # the shape alone does not tell them apart ...
    table = LeafTable.of([part(range(4))])
    proof = table.prove("d", "0000")
    with pytest.raises(DigestMismatch):  # ... but a sample never hashes to an inner node
        dataclasses.replace(proof, count=2, index=0, path=proof.path[1:]).require(table.root, 2, sample(0))
    with pytest.raises(InvalidConfig):
        merkle_root([])


def test_the_file_holds_the_table():
    table = LeafTable.of([part(range(40)), part([3], "å")])
    data = write_table(table)
    back = read_table(data)
    assert back.root == table.root
    assert back.multiset == table.multiset
    assert back.rows == table.rows
    short, long = (len(write_table(LeafTable.of([part(range(count))]))) for count in (40, 80))
    assert (long - short) / 40 == 32 + 8 + 8 + 4 + 4 + 2 * 8  # digest, size, end of key, key, field list, two tags


def test_no_other_bytes_are_a_table():
    data = write_table(LeafTable.of([part(range(6))]))
    with pytest.raises(UnsupportedVersion):
        read_table(b"HFLEAF02" + data[8:])
    for length in range(0, len(data), 7):
        with pytest.raises((UnreadableArtifact, UnsupportedVersion)):
            read_table(data[:length])
    with pytest.raises(UnreadableArtifact, match="more"):
        read_table(data + b"\0")


def test_every_changed_byte_changes_the_table_or_is_refused():
    table = LeafTable.of([part(range(5))])
    data = write_table(table)
    for place in range(len(data)):
        for bit in (1, 128):
            bent = bytearray(data)
            bent[place] ^= bit
            try:
                other = read_table(bytes(bent))
            except (UnreadableArtifact, UnsupportedVersion):
                continue
            assert other.root != table.root or other.rows != table.rows


def test_a_huge_announcement_allocates_nothing():
    head = struct.pack("<8sQII", b"HFLEAF01", 2**60, 1, 1)
    with pytest.raises(UnreadableArtifact, match="cut off"):
        read_table(head + bytes(100))


def test_the_fields_that_differ_are_named():
    row = part([4]).rows[0]
    assert differing_fields(row, sample(4)) == []
    assert differing_fields(row, sample(4) | {"label": 5}) == ["field 'label' differs"]
    assert differing_fields(row, {"image": sample(4)["image"]}) == ["field 'label' is missing"]
    assert differing_fields(row, sample(4) | {"x": 1, "image": 0}) == ["field 'x' is new", "field 'image' differs"]
    assert ids_of([("d", str(place)) for place in range(7)]).endswith("and 2 more")
