"""holdfast.load through a signed manifest: the files that are used are the signed ones, and no others are read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import holdfast
from holdfast.errors import DigestMismatch, SignerUntrusted, UnreadableArtifact, UnsupportedVersion
from holdfast.models import build_architecture
from holdfast.signing import Serialization, generate_key, sign_artifact
from tests.signed_models import KEY, sign_manifest

PUBLIC = KEY.public


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    holdfast.save(build_architecture("digits-cnn"), tmp_path / "m")
    sign_manifest(tmp_path / "m")
    return tmp_path / "m"


def test_a_folder_with_a_manifest_loads_as_without_trust(folder: Path):
    trusted, plain = holdfast.load(folder, trust=PUBLIC), holdfast.load(folder)
    images = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    assert torch.equal(trusted(images), plain(images))


def test_a_single_file_with_a_manifest_may_have_been_renamed(folder: Path, tmp_path: Path):
    alone = (folder / "model.safetensors").rename(tmp_path / "a.safetensors")
    sign_manifest(alone)
    alone = alone.rename(tmp_path / "b.safetensors")
    (tmp_path / "a.safetensors.sig2").rename(tmp_path / "b.safetensors.sig2")
    model = holdfast.load(alone, arch="digits-cnn", trust=PUBLIC)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in load_file(alone).items())


@pytest.mark.parametrize("name", ["model.safetensors", "model.json"])
def test_a_changed_file_is_refused(folder: Path, name: str):
    data = bytearray((folder / name).read_bytes())
    data[-2] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(DigestMismatch, match=name):
        holdfast.load(folder, trust=PUBLIC)


def test_a_file_that_nobody_signed_is_not_loaded(folder: Path):
    description = (folder / "model.json").read_bytes()
    (folder / "model.json").unlink()
    sign_manifest(folder)
    (folder / "model.json").write_bytes(description)
    with pytest.raises(DigestMismatch, match=r"model\.json was not signed"):
        holdfast.load(folder, trust=PUBLIC)


def test_weights_put_in_the_place_of_an_unused_file_are_refused(folder: Path):
    save_file({"x": torch.ones(1)}, folder / "more.safetensors")
    with pytest.raises(DigestMismatch, match="was not signed"):
        holdfast.load(folder, trust=PUBLIC)


def test_a_folder_that_describes_no_model_says_so(folder: Path):
    (folder / "model.json").unlink()
    sign_manifest(folder)
    with pytest.raises(UnreadableArtifact, match=r"holds no model\.json, which would describe"):
        holdfast.load(folder, trust=PUBLIC)


@pytest.mark.parametrize("algorithm", ["sha256", "blake2b", "blake3"])
def test_without_a_manifest_any_hash_of_whole_files_will_do(folder: Path, algorithm: str):
    (folder / "model.sig2").unlink()
    sign_artifact(folder, KEY, how=Serialization(hash=algorithm))
    assert holdfast.load(folder, trust=PUBLIC).state_dict().keys() == holdfast.load(folder).state_dict().keys()
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "model.safetensors").write_bytes(data)
    with pytest.raises(DigestMismatch, match=r"model\.safetensors"):
        holdfast.load(folder, trust=PUBLIC)


def test_a_signature_over_shards_cannot_vouch_for_what_is_loaded(folder: Path):
    (folder / "model.sig2").unlink()
    sign_artifact(folder, KEY, how=Serialization(method="shards", shard_size=1000))
    with pytest.raises(UnsupportedVersion, match="shards") as caught:
        holdfast.load(folder, trust=PUBLIC)
    assert caught.value.hint


def test_somebody_elses_manifest_is_refused(folder: Path):
    with pytest.raises(SignerUntrusted):
        holdfast.load(folder, trust=generate_key().public)


def test_the_description_is_read_from_the_signed_bytes(folder: Path):
    value = json.loads((folder / "model.json").read_text())
    value["architecture"] = "os:system"
    (folder / "model.json").write_text(json.dumps(value))
    with pytest.raises(DigestMismatch):
        holdfast.load(folder, trust=PUBLIC)
