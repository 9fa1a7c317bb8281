"""What we sign as an OpenSSF model signature: names, order, root, shards, and bytes that repeat."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from pathlib import Path

import pytest
from blake3 import blake3

from holdfast.errors import DigestMismatch, InvalidConfig, UnreadableArtifact
from holdfast.models import build_architecture
from holdfast.signing import Serialization, cosign_artifact, generate_key, sign, sign_artifact, verify_artifact
from holdfast.signing import verify as verify_subject

KEY, OTHER = generate_key(), generate_key("ed25519")
HASHES = {
    "sha256": lambda data: hashlib.sha256(data).hexdigest(),
    "blake2b": lambda data: hashlib.blake2b(data).hexdigest(),
    "blake3": lambda data: blake3(data).hexdigest(),
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    for name, data in {"a/b": b"one", "a-b": b"two", "a.b": bytes(20), "ä 文:1": b"x", "empty": b""}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def statement(bundle: Path) -> dict:
    return json.loads(base64.b64decode(json.loads(bundle.read_bytes())["dsseEnvelope"]["payload"]))


@pytest.mark.parametrize("kind", list(HASHES))
def test_files_are_listed_by_code_point_with_their_digests_and_the_root_over_them(model: Path, kind: str):
    signed = statement(sign_artifact(model, KEY, how=Serialization(hash=kind)))
    names = sorted(["a/b", "a-b", "a.b", "ä 文:1", "empty"])
    digests = [HASHES[kind]((model / name).read_bytes()) for name in names]
    assert signed["predicate"]["resources"] == [
        {"name": name, "algorithm": kind, "digest": digest} for name, digest in zip(names, digests, strict=True)
    ]
    assert signed["subject"] == [
        {"name": "model", "digest": {"sha256": hashlib.sha256(bytes.fromhex("".join(digests))).hexdigest()}}
    ]
    assert verify_artifact(model, KEY.public).listing.how.hash == kind


@pytest.mark.parametrize("kind", list(HASHES))
def test_shards_are_listed_by_code_point_of_their_names(model: Path, kind: str):
    how = Serialization(method="shards", hash=kind, shard_size=8)
    signed = statement(sign_artifact(model, KEY, how=how))
    data = (model / "a.b").read_bytes()
    expected = {f"a.b:{i}:{min(i + 8, 20)}": HASHES[kind](data[i : i + 8]) for i in (0, 8, 16)}
    listed = {item["name"]: item["digest"] for item in signed["predicate"]["resources"]}
    assert expected.items() <= listed.items()
    assert list(listed) == sorted(["a/b:0:3", "a-b:0:3", *expected, "ä 文:1:0:1"])
    assert signed["predicate"]["serialization"]["shard_size"] == 8
    assert verify_artifact(model, KEY.public).listing.files == {"a/b", "a-b", "a.b", "ä 文:1", "empty"}


def test_the_same_model_gives_the_same_payload_whatever_the_order_of_the_ignored_paths(model: Path, tmp_path: Path):
    payloads = {
        json.dumps(statement(sign_artifact(model, KEY, how=Serialization(ignore=frozenset(order)))))
        for order in (["z", "a-b", "y"], ["y", "z", "a-b"], ["a-b/", "y", "z"])
    }
    assert len(payloads) == 1
    ignored = json.loads(payloads.pop())["predicate"]["serialization"]["ignore_paths"]
    own = ["lineage", "model.outboard", "model.sig2"]
    assert ignored == sorted([".git", ".gitattributes", ".github", ".gitignore", *own, "model.sig", "a-b", "y", "z"])


def test_a_single_file_is_listed_by_its_name_and_leaves_nothing_out(model: Path):
    signature = sign_artifact(model / "a.b", KEY)
    assert signature == model / "a.b.sig"
    signed = statement(signature)
    assert [item["name"] for item in signed["predicate"]["resources"]] == ["a.b"]
    assert signed["subject"][0]["name"] == "a.b"
    assert signed["predicate"]["serialization"]["ignore_paths"] == []
    assert verify_artifact(model / "a.b", KEY.public).listing.files == {"a.b"}


@pytest.mark.parametrize("path", ["", ".", "..", "../x", "/x", "a//b", "./a", "a/..", "*.bin", "a?", "[a]"])
def test_ignored_paths_are_plain_names_inside_the_model(model: Path, path: str):
    with pytest.raises(InvalidConfig):
        sign_artifact(model, KEY, how=Serialization(ignore=frozenset({path})))


def test_git_names_are_left_out_at_the_top_only_and_on_request_not_even_there(model: Path):
    for name in (".git/config", "sub/.git/config", ".gitattributes", ".github/x/y.yml"):
        (model / name).parent.mkdir(parents=True, exist_ok=True)
        (model / name).write_text("x")
    assert verify(model, sign_artifact(model, KEY)) & {".git/config", "sub/.git/config"} == {"sub/.git/config"}
    assert {".git/config", ".gitattributes", ".github/x/y.yml"} <= verify(model, sign_artifact(model, KEY, git=False))
    (model / ".github" / "more").write_text("")
    with pytest.raises(DigestMismatch, match=r"\.github/more was not signed"):
        verify_artifact(model, KEY.public)


def verify(model: Path, signature: Path) -> frozenset[str]:
    return verify_artifact(model, KEY.public, signature=signature).listing.files


def test_our_own_evidence_beside_a_model_may_come_later_and_nothing_else_may_lie_there(model: Path):
    sign_artifact(model, KEY)
    for name in ("model.sig2", "model.outboard/a/b.obao", "lineage/train.bundle.json"):
        (model / name).parent.mkdir(parents=True, exist_ok=True)
        (model / name).write_text("{}")
    verify_artifact(model, KEY.public)
    (model / "lineage" / "evil.py").write_text("evil()")
    with pytest.raises(DigestMismatch, match=r"lineage/evil\.py was not signed"):
        verify_artifact(model, KEY.public)
    (model / "model.outboard" / "evil.py").write_text("evil()")
    with pytest.raises(UnreadableArtifact, match=r"model\.outboard/evil\.py"):
        sign_artifact(model, KEY)


def test_steps_that_nobody_signed_are_files_of_the_model_and_bundles_beside_them_are_not(model: Path):
    (model / "lineage").mkdir()
    for name in ("0001-train.json", "0002-quantize.bundle.json"):
        (model / "lineage" / name).write_text("{}")
    signature = sign_artifact(model, KEY)
    ignored = statement(signature)["predicate"]["serialization"]["ignore_paths"]
    assert "lineage" not in ignored
    assert "lineage/0002-quantize.bundle.json" in ignored
    assert {name for name in verify(model, signature) if "lineage" in name} == {"lineage/0001-train.json"}
    (model / "lineage" / "0003-later.bundle.json").write_text("{}")  # others may add evidence
    verify_artifact(model, KEY.public)
    (model / "lineage" / "0001-train.json").write_text("[]")
    with pytest.raises(DigestMismatch, match=r"lineage/0001-train\.json changed"):
        verify_artifact(model, KEY.public)


def test_an_empty_model_is_not_signed(tmp_path: Path):
    (tmp_path / "model" / "sub").mkdir(parents=True)
    with pytest.raises(InvalidConfig, match="no file to sign"):
        sign_artifact(tmp_path / "model", KEY)
    (tmp_path / "model" / "empty").touch()
    with pytest.raises(InvalidConfig, match="no file to sign"):
        sign_artifact(tmp_path / "model", KEY, how=Serialization(method="shards"))


def test_names_that_are_not_utf8_are_refused_and_named(model: Path):
    (Path(os.fsdecode(os.fsencode(model) + b"/bad\xff"))).write_bytes(b"x")
    with pytest.raises(UnreadableArtifact, match=r"bad\\xff.*not UTF-8"):
        sign_artifact(model, KEY)


@pytest.mark.parametrize(
    "settings",
    [{"method": "trees"}, {"hash": "md5"}, {"shard_size": 8}, {"method": "shards", "shard_size": 0}],
    ids=str,
)
def test_impossible_settings_are_refused(settings: dict):
    with pytest.raises(InvalidConfig):
        Serialization(**settings)


def test_empty_files_count_in_shards(model: Path):
    sign_artifact(model, KEY, how=Serialization(method="shards", shard_size=8))
    (model / "new").touch()
    with pytest.raises(DigestMismatch, match="new was not signed"):
        verify_artifact(model, KEY.public)
    (model / "new").unlink()
    (model / "empty").unlink()
    with pytest.raises(DigestMismatch, match="empty is missing"):
        verify_artifact(model, KEY.public)


def test_extra_files_pass_only_if_asked_for_and_the_proof_names_them(model: Path):
    sign_artifact(model, KEY, how=Serialization(method="shards", shard_size=8))
    (model / "new").write_text("x")
    with pytest.raises(DigestMismatch, match="new was not signed"):
        verify_artifact(model, KEY.public)
    assert verify_artifact(model, KEY.public, extra="allow").unsigned == ("new",)
    (model / "a-b").write_text("three")
    with pytest.raises(DigestMismatch, match="a-b"):
        verify_artifact(model, KEY.public, extra="allow")


def test_a_cosigner_signs_only_what_the_statement_says(model: Path):
    sign_artifact(model, KEY)
    cosign_artifact(model, OTHER)
    assert len(verify_artifact(model, [KEY.public, OTHER.public]).signers) == 2
    (model / "a-b").write_text("changed")
    with pytest.raises(DigestMismatch, match="a-b changed"):
        cosign_artifact(model, generate_key())
    cosign_artifact(model, generate_key(), rehash=False)


def test_the_verb_takes_several_signers_and_settings_for_files_only(model: Path):
    sign(model, key=[KEY, OTHER], how=Serialization(hash="blake3"))
    assert len(verify_subject(model, trust=[OTHER.public, KEY.public]).signers) == 2
    with pytest.raises(InvalidConfig, match="no files to list"):
        sign(build_architecture("digits-cnn"), key=KEY, how=Serialization())


def test_the_name_of_the_folder_is_found_through_dots(model: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(model / "a")
    for path in (Path(".."), Path("../../model"), model):
        assert statement(sign_artifact(path, KEY))["subject"][0]["name"] == "model"
        verify_artifact(path, KEY.public)
