"""The manifest's identities and its statement: one spelling, nothing of meaning left out."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.errors import HoldfastError, SignatureInvalid, UnsupportedVersion
from holdfast.evidence.model_manifest import CONTENT_ID, MODEL_ID, FileEntry, ModelManifest, TensorEntry
from holdfast.evidence.statement import Statement, Subject

A, B, C = "aa" * 32, "bb" * 32, "cc" * 32
W = TensorEntry("m.safetensors", "w", "f32", (2, 3), 80, 24, A)
V = TensorEntry("m.safetensors", "v", "i8", (4,), 104, 4, B)
MANIFEST = ModelManifest.of(
    "model",
    [FileEntry("m.safetensors", 108, B, A, C), FileEntry("a/b.json", 2, "", C)],
    [W, V],
    version=3,
    base=C,
    ignore=["notes", "a/draft"],
)


def again(manifest: ModelManifest) -> ModelManifest:
    return ModelManifest.from_statement(Statement.from_bytes(manifest.to_statement().to_bytes()))


def test_a_manifest_survives_its_bytes():
    assert again(MANIFEST) == MANIFEST
    assert [item.name for item in MANIFEST.files] == ["a/b.json", "m.safetensors"]
    assert [item.name for item in MANIFEST.tensors] == ["v", "w"]
    assert again(ModelManifest.of("m", MANIFEST.files)).tensors == ()


def test_the_order_of_entries_does_not_matter_to_the_bytes():
    turned = ModelManifest.of(
        "model", MANIFEST.files[::-1], MANIFEST.tensors[::-1], version=3, base=C, ignore=MANIFEST.ignore
    )
    assert turned.to_statement().to_bytes() == MANIFEST.to_statement().to_bytes()


def changed_tensor(**fields: Any) -> ModelManifest:
    return dataclasses.replace(MANIFEST, tensors=(V, dataclasses.replace(W, **fields)))


@pytest.mark.parametrize("fields", [{"name": "x"}, {"dtype": "i32"}, {"shape": (3, 2)}, {"shape": (6,)}, {"blake3": B}])
def test_every_part_of_a_tensor_is_in_the_content_id(fields: dict[str, Any]):
    assert changed_tensor(**fields).content_id != MANIFEST.content_id
    assert changed_tensor(**fields).model_id == MANIFEST.model_id


def test_where_a_tensor_lies_is_not_in_the_content_id():
    elsewhere = tuple(dataclasses.replace(item, file="other", offset=item.offset + 8) for item in MANIFEST.tensors)
    assert dataclasses.replace(MANIFEST, tensors=elsewhere).content_id == MANIFEST.content_id


@pytest.mark.parametrize("fields", [{"name": "x"}, {"size": 109}, {"blake3": C}])
def test_every_part_of_a_file_is_in_the_model_id(fields: dict[str, Any]):
    files = (MANIFEST.files[0], dataclasses.replace(MANIFEST.files[1], **fields))
    assert dataclasses.replace(MANIFEST, files=files).model_id != MANIFEST.model_id


def test_counts_are_in_both_ids():
    assert dataclasses.replace(MANIFEST, files=MANIFEST.files[:1]).model_id != MANIFEST.model_id
    assert dataclasses.replace(MANIFEST, tensors=MANIFEST.tensors[:1]).content_id != MANIFEST.content_id


def test_no_tensors_have_no_content_id():
    assert ModelManifest.of("m", MANIFEST.files).to_statement().subjects[0].digest.keys() == {MODEL_ID}
    assert MANIFEST.to_statement().subjects[0].digest.keys() == {MODEL_ID, CONTENT_ID}


Change = Callable[[dict[str, Any]], Any]
F, T = (lambda p: p["files"]), (lambda p: p["tensors"])
CHANGES: dict[str, Change] = {
    "name missing": lambda p: p.pop("name"),
    "name no text": lambda p: p.update(name=3),
    "name surrogate": lambda p: p.update(name="\ud800"),
    "further key": lambda p: p.update(more=1),
    "version bool": lambda p: p.update(version=True),
    "version negative": lambda p: p.update(version=-1),
    "version float": lambda p: p.update(version=1.0),
    "base text": lambda p: p.update(base="x"),
    "base upper case": lambda p: p.update(base=C.upper()),
    "ignore text": lambda p: p.update(ignore="notes"),
    "ignore everything": lambda p: p.update(ignore=["."]),
    "ignore out of order": lambda p: p["ignore"].reverse(),
    "ignore a signed file": lambda p: p.update(ignore=["a/b.json"]),
    "ignore a folder of a signed file": lambda p: p.update(ignore=["a"]),
    "files no list": lambda p: p.update(files={}),
    "no files": lambda p: p.update(files=[], tensors=[]),
    "files turned": lambda p: F(p).reverse(),
    "file twice": lambda p: F(p).insert(0, F(p)[0]),
    "file no object": lambda p: F(p).append(3),
    "file key missing": lambda p: F(p)[0].pop("size"),
    "file further key": lambda p: F(p)[0].update(mode=493),
    "file name ..": lambda p: F(p)[0].update(name="../b"),
    "file name .": lambda p: F(p)[0].update(name="."),
    "file name absolute": lambda p: F(p)[0].update(name="/b"),
    "file name doubled slash": lambda p: F(p)[0].update(name="a//b"),
    "file name trailing slash": lambda p: F(p)[0].update(name="a/"),
    "file name NUL": lambda p: F(p)[0].update(name="a\0"),
    "file name empty": lambda p: F(p)[0].update(name=""),
    "file name surrogate": lambda p: F(p)[0].update(name="\udcff"),
    "file below a file": lambda p: F(p).append({"name": "m.safetensors/x", "size": 1, "blake3": A}),
    "file size text": lambda p: F(p)[0].update(size="2"),
    "file size huge": lambda p: F(p)[0].update(size=2**53),
    "file digest short": lambda p: F(p)[0].update(blake3="aa"),
    "file digest upper case": lambda p: F(p)[0].update(blake3=A.upper()),
    "file sha256 empty": lambda p: F(p)[0].update(sha256=""),
    "file sha256 null": lambda p: F(p)[0].update(sha256=None),
    "file outboard text": lambda p: F(p)[0].update(outboard="x"),
    "tensors missing": lambda p: p.pop("tensors"),
    "tensors turned": lambda p: T(p).reverse(),
    "tensor twice": lambda p: T(p).append(T(p)[-1]),
    "tensor of no file": lambda p: T(p)[0].update(file="x"),
    "tensor of a list": lambda p: T(p)[0].update(file=[]),
    "tensor key missing": lambda p: T(p)[0].pop("dtype"),
    "tensor further key": lambda p: T(p)[0].update(strides=[1]),
    "tensor dtype upper case": lambda p: T(p)[0].update(dtype="F32"),
    "tensor shape text": lambda p: T(p)[0].update(shape="3"),
    "tensor shape negative": lambda p: T(p)[0].update(shape=[-1]),
    "tensor shape bool": lambda p: T(p)[0].update(shape=[True]),
    "tensor of many sides": lambda p: T(p)[0].update(shape=[1] * 65),
    "tensor leaves its file": lambda p: T(p)[0].update(offset=105),
    "tensor overlaps": lambda p: T(p)[0].update(offset=100),
    "tensor digest": lambda p: T(p)[0].update(blake3="0x" + A[2:]),
}


def statement_with(change: Change) -> Statement:
    statement = MANIFEST.to_statement()
    predicate = copy.deepcopy(dict(statement.predicate))
    change(predicate)
    return Statement(statement.subjects, statement.predicate_type, predicate)


@pytest.mark.parametrize("name", CHANGES)
def test_malformed_manifests_are_refused_whoever_signed_them(name: str):
    with pytest.raises(SignatureInvalid, match="malformed"):
        ModelManifest.from_statement(statement_with(CHANGES[name]))


def test_the_subject_must_be_what_is_listed():
    good = MANIFEST.to_statement()
    for subject in (
        Subject("other", good.subjects[0].digest),
        Subject("model", {**good.subjects[0].digest, MODEL_ID: A}),
        Subject("model", {**good.subjects[0].digest, CONTENT_ID: A}),
        Subject("model", {**good.subjects[0].digest, "sha256": A}),
        Subject("model", {MODEL_ID: MANIFEST.model_id}),
    ):
        with pytest.raises(SignatureInvalid, match="subject"):
            ModelManifest.from_statement(dataclasses.replace(good, subjects=(subject,)))
    with pytest.raises(SignatureInvalid, match="subject"):
        ModelManifest.from_statement(dataclasses.replace(good, subjects=good.subjects * 2))
    with pytest.raises(UnsupportedVersion, match="no manifest"):
        ModelManifest.from_statement(dataclasses.replace(good, predicate_type="https://slsa.dev/provenance/v1"))


def test_a_writer_makes_no_malformed_manifest():
    for entry in (FileEntry("../x", 1, A, A), FileEntry("x", -1, A, A), FileEntry("x", 1, "0", A)):
        with pytest.raises(SignatureInvalid):
            ModelManifest.of("m", [entry])
        with pytest.raises(SignatureInvalid):
            ModelManifest("m", (entry,)).to_statement()


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.just(A),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_nothing_but_our_own_errors_comes_of_any_predicate(data: st.DataObject):
    predicate = copy.deepcopy(dict(MANIFEST.to_statement().predicate))
    spot: Any = predicate
    for _ in range(data.draw(st.integers(0, 3))):
        keys = list(spot) if isinstance(spot, dict) else list(range(len(spot))) if isinstance(spot, list) else []
        if not keys or not isinstance(spot[key := data.draw(st.sampled_from(keys))], dict | list):
            break
        spot = spot[key]
    keys = list(spot) if isinstance(spot, dict) else list(range(len(spot)))
    if keys:
        spot[data.draw(st.sampled_from(keys))] = data.draw(_JSON)
    statement = dataclasses.replace(MANIFEST.to_statement(), predicate=predicate)
    try:
        found = ModelManifest.from_statement(statement)
    except HoldfastError:
        return
    assert found.model_id == MANIFEST.model_id
    assert found.content_id == MANIFEST.content_id


def test_the_bytes_are_those_of_the_published_vectors(repository: Path):
    for path in sorted((repository / "tests" / "vectors" / "model-manifest").glob("*.json")):
        vector = json.loads(path.read_text())
        statement = Statement.from_bytes(vector["payload"].encode())
        manifest = ModelManifest.from_statement(statement)
        assert manifest.to_statement().to_bytes() == vector["payload"].encode()
        assert manifest.model_id == vector["model_id"]
        assert manifest.content_id == vector["content_id"]
