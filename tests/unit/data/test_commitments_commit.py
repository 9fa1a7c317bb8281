"""Making commitments: fast and slow paths agree, merging adds, subtracting takes away, the predicate is strict."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch

import holdfast
from holdfast.data.commitments import (
    Committed,
    MultisetHash,
    commit,
    committed,
    compare,
    from_predicate,
    image_multiset,
    merge,
    shared_rows,
    subtract,
    summary,
    to_predicate,
)
from holdfast.errors import DigestMismatch, InvalidConfig, UnreadableArtifact, UnsupportedVersion

from . import reference_commitment as reference


@pytest.fixture(scope="module")
def digits():
    return holdfast.dataset("digits", split="test").take(60)


def stream(numbers):
    return [(f"{number:03d}", {"x": np.full(3, number, np.int16), "y": number}) for number in numbers]


def test_an_image_dataset_has_image_label_and_class(digits):
    whole = commit(digits, "digits/test")
    digests, size = [], 0
    for place in range(len(digits)):
        label = int(digits.labels[place])
        fields = {
            "image": ("uint8", (1, 8, 8), digits.raw[place].numpy().tobytes()),
            "label": ("int64", (), label.to_bytes(8, "little")),
            "class": ("text", (), digits.classes[label].encode()),
        }
        size += sum(len(data) for _, _, data in fields.values())
        digests.append(reference.element("digits/test", f"{place:012d}", fields))
    state, digest = reference.multiset(digests, size)
    assert whole.commitment.multiset.state == state
    assert whole.commitment.digest == digest
    leaves = [
        reference.leaf("digits/test", row.key, row.size, digest)
        for row, digest in zip(whole.table.rows, digests, strict=True)
    ]
    assert whole.commitment.root == reference.root(leaves).hex()
    assert image_multiset(digits, "digits/test") == whole.commitment.multiset


@pytest.mark.parametrize("raw", [torch.rand(7, 2, 3, 4), torch.arange(7 * 24, dtype=torch.uint8).reshape(7, 2, 3, 4)])
@pytest.mark.parametrize("named", [True, False])
def test_the_fast_path_is_the_slow_one(raw, named):
    labels = torch.tensor([0, 1, 1, 0, 2, 2, 0]) if named else torch.full((7,), -1)
    data = holdfast.data.Dataset("d", raw, labels, ("a", "", "ccc") if named else ())
    keys = [f"key {place}" for place in range(7)]
    assert image_multiset(data, "d", keys) == commit(data, keys=keys).commitment.multiset
    assert image_multiset(data, "d") == commit(data).commitment.multiset


def test_renaming_a_class_is_a_change(digits):
    renamed = dataclasses.replace(digits, classes=("zero", *digits.classes[1:]))
    assert commit(renamed, "d").commitment.digest != commit(digits, "d").commitment.digest


def test_a_map_style_dataset_and_a_stream_agree():
    class Pairs:
        def __len__(self):
            return 4

        def __getitem__(self, index):
            return np.full(2, index), index

    from_pairs = commit(Pairs(), "p", fields=("x", "y"))
    from_stream = commit([(f"{index:012d}", {"x": np.full(2, index), "y": index}) for index in (2, 0, 3, 1)], "p")
    assert from_pairs.commitment == from_stream.commitment
    with pytest.raises(InvalidConfig, match="does not fit the fields"):
        commit(Pairs(), "p", fields=("x",))
    with pytest.raises(InvalidConfig, match="3 keys for 4"):
        commit(Pairs(), "p", keys=["a", "b", "c"])
    with pytest.raises(InvalidConfig, match="no name"):
        commit(Pairs())


def test_nothing_and_repeats_are_refused():
    with pytest.raises(InvalidConfig, match="no samples"):
        commit([], "d")
    with pytest.raises(InvalidConfig, match="key '001' twice"):
        commit(stream([0, 1, 1]), "d")


def test_progress_counts_to_the_end():
    seen = []
    commit(stream(range(600)), "d", progress=lambda done, total: seen.append((done, total)))
    assert seen == [(256, 256), (512, 512), (600, 600)]


def test_merging_shards_gives_the_whole():
    whole = commit(stream(range(20)), "d")
    parts = [commit(stream(range(start, 20, 3)), "d") for start in range(3)]
    assert merge("d", parts).commitment == whole.commitment
    assert [source.dataset for source in merge("d", parts).commitment.sources] == ["d"]
    with pytest.raises(InvalidConfig, match="twice"):
        merge("d", [whole, parts[0]])


def test_merging_sources_keeps_them_apart():
    one, other = commit(stream(range(5)), "one"), commit(stream(range(5)), "other")
    both = merge("both", [other, one])
    assert [source.dataset for source in both.commitment.sources] == ["one", "other"]
    assert both.commitment.multiset == one.commitment.multiset + other.commitment.multiset
    assert both.commitment.source("other").root == other.commitment.root
    with pytest.raises(InvalidConfig, match="no source 'third'"):
        both.commitment.source("third")
    assert summary(both.commitment)["sources"]["one"]["count"] == 5


def test_subtracting_needs_no_data():
    whole = commit(stream(range(20)), "d")
    rest = subtract(whole, [("d", "003"), ("d", "017")])
    assert rest.commitment == commit(stream(set(range(20)) - {3, 17}), "d").commitment
    gone = commit(stream([3, 17]), "d")
    assert subtract(whole, shared_rows(whole, gone)).commitment == rest.commitment
    with pytest.raises(DigestMismatch, match="not the same sample"):
        shared_rows(whole, commit([("003", {"x": 1})], "d"))
    with pytest.raises(InvalidConfig, match="cannot take away"):
        subtract(rest, [("d", "003")])


def test_a_source_that_loses_samples_loses_its_signer():
    both = merge("both", [commit(stream(range(5)), "a"), commit(stream(range(5)), "b")], {"a": "1" * 64, "b": "2" * 64})
    rest = subtract(both, [("b", "001")])
    assert [source.signer for source in rest.commitment.sources] == ["1" * 64, None]


def test_comparing_names_everything_that_differs():
    whole = merge("both", [commit(stream(range(10)), "d"), commit(stream(range(3)), "e")])
    changed = [("004", {"x": np.full(3, 4, np.int16), "y": 5}), ("004", {"x": np.full(3, 4, np.int16), "y": 4})]
    found = compare(whole, "d", stream([0, 1, 2, 3, 12]) + changed + stream([5, 6, 7, 8]))
    assert found.missing == (("d", "009"),)
    assert found.extra == (("d", "012"),)
    assert found.repeated == (("d", "004"),)
    assert found.changed == ((("d", "004"), ("field 'y' differs",)),)
    assert found.count == 11
    with pytest.raises(DigestMismatch, match=r"1 missing: '009' of d; 1 extra.*1 repeated.*field 'y' differs"):
        found.require_none("both")
    compare(whole, "e", stream([2, 1, 0])).require_none("both")


def test_a_table_belongs_to_one_commitment():
    one, other = commit(stream(range(4)), "d"), commit(stream(range(5)), "d")
    with pytest.raises(DigestMismatch, match="not that of d"):
        Committed(commitment=one.commitment, table=other.table)
    with pytest.raises(DigestMismatch, match="length differ"):
        Committed(commitment=dataclasses.replace(one.commitment, leaves_size=1), table=one.table)
    with pytest.raises(DigestMismatch, match="do not add up"):
        dataclasses.replace(one.commitment, multiset=other.commitment.multiset)
    with pytest.raises(InvalidConfig, match="no samples"):
        dataclasses.replace(
            one.commitment,
            multiset=MultisetHash(),
            sources=(dataclasses.replace(one.commitment.sources[0], multiset=MultisetHash()),),
        )


def test_the_predicate_goes_there_and_back():
    table = merge("both", [commit(stream(range(5)), "a"), commit(stream(range(5)), "b")]).table
    whole = committed("both", table, {"a": "1" * 64}).commitment
    assert from_predicate(to_predicate(whole)) == whole


def changes():
    def at(*path, to):
        def change(value):
            for step in path[:-1]:
                value = value[step]
            value[path[-1]] = to

        return change

    yield at("version", to=2), UnsupportedVersion
    yield at("algorithms", "multiset", "lanes", to=32), UnsupportedVersion
    yield at("algorithms", "multiset", "lanes", to=2048), UnsupportedVersion
    yield at("algorithms", "multiset", "bits", to=8), UnsupportedVersion
    yield at("algorithms", "element", to="sha1"), UnsupportedVersion
    yield at("multiset", "state", to="00" * 64), UnsupportedVersion
    yield at("multiset", "count", to=6), UnreadableArtifact
    yield at("multiset", "count", to=True), UnreadableArtifact
    yield at("multiset", "count", to=5.0), UnreadableArtifact
    yield at("multiset", "bytes", to=-1), UnreadableArtifact
    yield at("multiset", "digest", to="A" * 64), UnreadableArtifact
    yield at("root", to="x"), UnreadableArtifact
    yield at("leaves", "digest", to=None), UnreadableArtifact
    yield at("leaves", "more", to=1), UnreadableArtifact
    yield at("extra", to=1), UnreadableArtifact
    yield at("name", to=""), UnreadableArtifact
    yield at("sources", to=[]), UnreadableArtifact
    yield at("sources", to={}), UnreadableArtifact
    yield at("sources", 0, to="d"), UnreadableArtifact
    yield at("sources", 0, "signer", to=""), UnreadableArtifact
    yield at("sources", 0, "multiset", "count", to=4), UnreadableArtifact
    yield lambda value: value.pop("root"), UnreadableArtifact
    yield lambda value: value["sources"].append(value["sources"][0]), UnreadableArtifact


@pytest.mark.parametrize(("change", "error"), list(changes()))
def test_nothing_but_a_predicate_is_one(change, error):
    value = copy.deepcopy(to_predicate(commit(stream(range(5)), "d").commitment))
    change(value)
    with pytest.raises(error):
        from_predicate(value)
