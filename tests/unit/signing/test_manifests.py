"""Signed manifests beside models: written from one pass, read under trust, and held against the files."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric import ed25519
from safetensors.torch import save_file

from holdfast.errors import (
    ArtifactError,
    DigestMismatch,
    HoldfastError,
    InvalidConfig,
    RecordMissing,
    SignatureInvalid,
    SignerUntrusted,
    UnsafeArtifact,
    UnsupportedVersion,
)
from holdfast.evidence.digest import Wanted, hash_tree
from holdfast.evidence.tree import Links
from holdfast.signing import generate_key, sign_statement
from holdfast.signing.keys import KeySigner
from holdfast.signing.manifests import (
    manifest_of,
    read_manifest,
    sign_manifest,
    verify_files,
    write_manifest,
)

KEY = generate_key("ed25519")
TENSORS = {f"layer.{n}.weight": torch.arange(12.0).reshape(3, 4) + n for n in range(6)} | {"b": torch.ones(3).half()}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    save_file(TENSORS, folder / "model.safetensors")
    np.savez(folder / "sub" / "extra.npz", x=np.arange(5))
    (folder / "config.json").write_text("{}")
    return folder


def shard(folder: Path, *parts: list[str]) -> Path:
    folder.mkdir()
    for number, names in enumerate(parts):
        save_file({name: TENSORS[name] for name in names}, folder / f"model-{number}.safetensors")
    return folder


def test_files_and_tensors_are_listed_with_their_digests(model: Path):
    write_manifest(model, KEY)
    manifest, proof = read_manifest(model, KEY.public)
    assert proof.signer == KEY.public.fingerprint
    assert manifest.name == "model"
    assert [item.name for item in manifest.files] == ["config.json", "model.safetensors", "sub/extra.npz"]
    data = (model / "model.safetensors").read_bytes()
    entry = manifest.files[1]
    assert (entry.size, entry.sha256, entry.blake3) == (
        len(data), hashlib.sha256(data).hexdigest(), blake3(data).hexdigest(),
    )  # fmt: skip
    listed = {item.name: item for item in manifest.tensors if item.file == "model.safetensors"}
    assert listed.keys() == TENSORS.keys()
    for name, item in listed.items():
        assert data[item.offset : item.offset + item.length] == TENSORS[name].numpy().tobytes()
        assert item.blake3 == blake3(TENSORS[name].numpy().tobytes()).hexdigest()
    assert [item.name for item in manifest.tensors if item.file == "sub/extra.npz"] == ["x"]


def test_a_whole_model_verifies_and_the_evidence_beside_it_is_no_part_of_it(model: Path):
    write_manifest(model, KEY)
    (model / "model.sig").write_text("for others")
    (model / "model.outboard").mkdir()
    (model / "model.outboard" / "model.safetensors.obao").write_text("proves itself")
    (model / "lineage").mkdir()
    (model / "lineage" / "train.bundle.json").write_text("proves itself")
    (model / ".git").mkdir()
    (model / ".git" / "HEAD").write_text("")
    manifest, _ = read_manifest(model, KEY.public)
    verify_files(model, manifest)
    assert write_manifest(model, KEY).read_bytes() == sign_manifest(manifest, KEY)


def test_what_differs_is_named(model: Path):
    write_manifest(model, KEY)
    manifest, _ = read_manifest(model, KEY.public)
    (model / "config.json").write_text("[]")
    with pytest.raises(DigestMismatch, match=r"config\.json changed"):
        verify_files(model, manifest)
    (model / "config.json").write_text("{} ")
    with pytest.raises(DigestMismatch, match=r"config\.json changed"):
        verify_files(model, manifest)
    (model / "config.json").unlink()
    with pytest.raises(DigestMismatch, match=r"config\.json is missing"):
        verify_files(model, manifest)
    (model / "config.json").write_text("{}")
    for name in ("new.py", "lineage/evil.py", "model.outboard/x.so", "sub/model.sig"):
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).write_text("evil()")
        with pytest.raises(DigestMismatch, match=f"{name} was not signed"):
            verify_files(model, manifest)
        verify_files(model, manifest, ignore=[name])
        (model / name).unlink()


def test_ignoring_a_signed_file_does_not_leave_it_unread(model: Path):
    write_manifest(model, KEY)
    manifest, _ = read_manifest(model, KEY.public)
    (model / "sub" / "extra.npz").write_bytes(b"changed")
    with pytest.raises(DigestMismatch, match="extra"):
        verify_files(model, manifest, ignore=["sub", "sub/extra.npz"])


def test_a_single_file_is_signed_under_its_name(model: Path, tmp_path: Path):
    path = model / "model.safetensors"
    assert write_manifest(path, KEY) == model / "model.safetensors.sig2"
    manifest, _ = read_manifest(path, KEY.public)
    assert [item.name for item in manifest.files] == ["model.safetensors"]
    verify_files(path, manifest)
    renamed = path.rename(tmp_path / "other.safetensors")
    with pytest.raises(DigestMismatch, match="missing"):
        verify_files(renamed, manifest)


def test_the_bundle_of_a_deterministic_key_is_reproducible(model: Path):
    first = write_manifest(model, KEY, threads=1).read_bytes()
    (model / "model.sig2").unlink()
    assert write_manifest(model, KEY, threads=3).read_bytes() == first


def test_resharding_keeps_the_content_id_and_nothing_else(tmp_path: Path):
    names = sorted(TENSORS)
    folders = [
        shard(tmp_path / "one", names),
        shard(tmp_path / "two", names[:3], names[3:]),
        shard(tmp_path / "five", *([name] for name in names)),
    ]
    found = [manifest_of(folder, hash_tree(folder, Wanted(tensors=True))) for folder in folders]
    assert len({item.content_id for item in found}) == 1
    assert len({item.model_id for item in found}) == 3


@pytest.mark.parametrize(
    "changed",
    [
        {"renamed": TENSORS["b"]},
        {"b": TENSORS["b"].reshape(3, 1)},
        {"b": TENSORS["b"].view(torch.int16)},
        {"b": TENSORS["b"] * 2},
        {},
    ],
)
def test_a_renamed_reshaped_retyped_changed_or_missing_tensor_changes_the_content_id(
    changed: dict[str, torch.Tensor], tmp_path: Path
):
    others = {name: value for name, value in TENSORS.items() if name != "b"}
    contents = []
    for number, tensors in enumerate((TENSORS, others | changed)):
        save_file(tensors, tmp_path / f"{number}.safetensors")
        found = hash_tree(tmp_path / f"{number}.safetensors", Wanted(tensors=True))
        contents.append(manifest_of(tmp_path / f"{number}.safetensors", found).content_id)
    assert contents[0] != contents[1]


def test_without_sha256_the_rest_is_the_same(model: Path):
    write_manifest(model, KEY)
    whole, _ = read_manifest(model, KEY.public)
    write_manifest(model, KEY, sha256=False)
    less, _ = read_manifest(model, KEY.public)
    assert {item.sha256 for item in less.files} == {""}
    assert (less.model_id, less.content_id, less.tensors) == (whole.model_id, whole.content_id, whole.tensors)
    verify_files(model, less)


def test_versions_count_up(model: Path):
    write_manifest(model, KEY)
    first, _ = read_manifest(model, KEY.public)
    write_manifest(model, KEY, previous=first)
    second, _ = read_manifest(model, KEY.public)
    assert (first.version, second.version) == (0, 1)
    write_manifest(model, KEY, previous=second, version=7)
    assert read_manifest(model, KEY.public)[0].version == 7
    for version in (1, -1):
        with pytest.raises(InvalidConfig, match="does not follow"):
            write_manifest(model, KEY, previous=second, version=version)
    assert first.model_id == second.model_id


def test_an_adapter_names_its_base(model: Path, tmp_path: Path):
    write_manifest(model, KEY)
    base, _ = read_manifest(model, KEY.public)
    adapter = shard(tmp_path / "adapter", ["b"])
    write_manifest(adapter, KEY, base=base)
    assert read_manifest(adapter, KEY.public)[0].base == base.model_id


def test_other_signers_other_statements_and_damage_are_refused(model: Path):
    with pytest.raises(RecordMissing, match="no signed manifest"):
        read_manifest(model, KEY.public)
    path = write_manifest(model, KEY)
    with pytest.raises(SignerUntrusted):
        read_manifest(model, generate_key().public)
    bundle = json.loads(path.read_bytes())
    payload = base64.b64decode(bundle["dsseEnvelope"]["payload"])
    for place in (len(payload) // 3, len(payload) - 10):
        forged = payload[:place] + bytes([payload[place] ^ 1]) + payload[place + 1 :]
        bundle["dsseEnvelope"]["payload"] = base64.b64encode(forged).decode()
        with pytest.raises(SignatureInvalid):
            read_manifest(model, KEY.public, signature=json.dumps(bundle).encode())
    from holdfast.evidence.statement import Statement, Subject

    other = sign_statement(Statement((Subject("m", {"blake3": "0" * 64}),), "https://example.org", {}), KEY)
    with pytest.raises(UnsupportedVersion):
        read_manifest(model, KEY.public, signature=other)


def test_damaged_and_dangerous_containers_are_not_signed(model: Path):
    np.savez(model / "objects.npz", x=np.array([{}], object))
    with pytest.raises(UnsafeArtifact, match="Python objects"):
        write_manifest(model, KEY)
    (model / "objects.npz").unlink()
    (model / "cut.safetensors").write_bytes(struct.pack("<Q", 100) + b"{}")
    with pytest.raises(ArtifactError, match="header claims"):
        write_manifest(model, KEY)
    write_manifest(model, KEY, tensors=False)
    assert not read_manifest(model, KEY.public)[0].tensors


def test_a_hugging_face_cache_is_signed_through_its_links(model: Path, tmp_path: Path):
    snapshot = tmp_path / "hub" / "snapshots" / "abc"
    (tmp_path / "hub" / "blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    (model / "model.safetensors").rename(tmp_path / "hub" / "blobs" / "123")
    (snapshot / "model.safetensors").symlink_to("../../blobs/123")
    with pytest.raises(HoldfastError, match="not a regular file"):
        write_manifest(snapshot, KEY)
    path = write_manifest(snapshot, KEY, links=Links.BLOBS, out=tmp_path / "snapshot.sig2")
    manifest, _ = read_manifest(snapshot, KEY.public, signature=path)
    assert {item.name for item in manifest.tensors} == TENSORS.keys()
    verify_files(snapshot, manifest, links=Links.BLOBS)


def test_the_published_vector_is_what_is_written(repository: Path, tmp_path: Path):
    vector = json.loads((repository / "tests" / "vectors" / "model-manifest" / "two-files.json").read_text())
    folder = tmp_path / vector["name"]
    for name, content in vector["files"].items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(bytes.fromhex(content))
    key = KeySigner(ed25519.Ed25519PrivateKey.from_private_bytes(bytes.fromhex(vector["private_key"])))
    path = write_manifest(folder, key, version=vector["version"])
    assert path.read_bytes() == vector["bundle"].encode()
    payload = json.loads(path.read_bytes())["dsseEnvelope"]["payload"]
    assert base64.b64decode(payload) == vector["payload"].encode()
