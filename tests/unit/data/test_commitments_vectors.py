"""The published vectors: written by the plain reference, reproduced by the product bit for bit, never edited."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from blake3 import blake3

from holdfast.data.commitments import Encoder, InclusionProof, Value, commit, merge, read_table, write_table
from holdfast.data.commitments.element import ELEMENT_CONTEXT, field_tags
from holdfast.data.commitments.multiset import expand
from holdfast.data.commitments.table import table_digest

FOLDER = Path(__file__).resolve().parents[2] / "vectors" / "dataset-commitment"
ELEMENTS = json.loads((FOLDER / "elements.json").read_text())["elements"]
DATASETS = json.loads((FOLDER / "datasets.json").read_text())


@pytest.mark.parametrize("vector", ELEMENTS, ids=lambda vector: vector["key"])
def test_elements(vector):
    fields = {
        name: Value(value["dtype"], tuple(value["shape"]), bytes.fromhex(value["data"]))
        for name, value in vector["fields"].items()
    }
    found = Encoder(vector["dataset"]).element(vector["key"], fields)
    assert (found.digest.hex(), found.size) == (vector["digest"], vector["size"])
    assert blake3(bytes.fromhex(vector["encoding"]), derive_key_context=ELEMENT_CONTEXT).digest() == found.digest
    lanes = expand(found.digest)
    assert np.frombuffer(lanes, "<u2")[:8].tolist() == vector["first_lanes"]
    assert blake3(lanes).hexdigest() == vector["lanes_blake3"]
    assert {name: tag.hex() for name, tag in field_tags("k", fields).items()} == vector["tags"]


def test_python_values_are_those_of_the_vectors():
    everything = {
        "none": None,
        "flag": True,
        "real": -0.0,
        "half": np.array([1.5, -2], np.float16),
        "int": -2,
        "empty": np.zeros((0, 3), np.float32),
        "list": [1, "a", []],
        "map": {"b": None, "a": np.int16(1)},
        "image": Value("image/L/uint8", (1, 2), b"\x07\x08"),
        "when": Value("timestamp[us, tz=UTC]", (), b"1767323045000006"),
    }
    assert Encoder("d").element("all", everything).digest.hex() == ELEMENTS[3]["digest"]
    assert Encoder("d").element("k", {"x": 1}).digest.hex() == ELEMENTS[0]["digest"]


def samples(count):
    return [
        (f"{i:012d}", {"image": np.array([[[i, i + 1], [i + 2, i + 3]]], np.uint8), "label": i % 3})
        for i in range(count)
    ]


def made(name):
    if name == "vectors/both":
        return merge(name, [made("vectors/a"), made("vectors/b")])
    return commit(samples({"vectors/a": 5, "vectors/b": 2}[name]), name)


@pytest.mark.parametrize("name", DATASETS["datasets"])
def test_datasets(name):
    vector, whole = DATASETS["datasets"][name], made(name)
    commitment = whole.commitment
    assert commitment.multiset.state.hex() == vector["state"]
    assert (commitment.multiset.count, commitment.multiset.size) == (vector["count"], vector["bytes"])
    assert (commitment.digest, commitment.root) == (vector["digest"], vector["root"])
    assert [leaf.hex() for part in whole.table.parts for leaf in part.leaves] == vector["leaves"]
    assert write_table(whole.table).hex() == vector["table"]
    assert table_digest(bytes.fromhex(vector["table"])) == vector["table_digest"] == commitment.leaves
    assert [source.dataset for source in commitment.sources] == vector["sources"]
    assert read_table(bytes.fromhex(vector["table"])).root == vector["root"]


def test_proof():
    proof = InclusionProof.from_json(DATASETS["proof"])
    proof.require(DATASETS["datasets"]["vectors/a"]["root"], 5, samples(5)[3][1])
    assert made("vectors/a").table.prove("vectors/a", "000000000003") == proof
