"""The identity on disk is the identity in memory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import holdfast
from holdfast.data import dataset
from holdfast.errors import ArtifactError, UnreadableArtifact, UnsupportedVersion
from holdfast.evidence.provenance import MODEL_ID
from holdfast.models import build_architecture, card, manifest_of
from holdfast.signing import generate_key
from holdfast.signing.lineage.stored import identify, stored_manifest, stored_steps
from holdfast.signing.manifests import read_manifest, write_manifest


def plain() -> nn.Module:
    return build_architecture("digits-cnn", seed=3)


def hardened() -> nn.Module:
    small = holdfast.quantize(plain(), "int8")
    bounds = holdfast.profile(small, dataset("digits", split="train").take(32))
    return holdfast.harden(small, holdfast.RangeRestriction(bounds, slack=1.3))


MODELS = {
    "plain": plain,
    "bfloat16": lambda: plain().to(torch.bfloat16),
    "double": lambda: plain().double(),
    "int4": lambda: holdfast.quantize(plain(), "int4"),
    "mxfp4": lambda: holdfast.quantize(plain(), "mxfp4"),
    "hardened": hardened,
}


@pytest.mark.parametrize("name", list(MODELS))
def test_a_folder_has_the_manifest_of_the_model_that_was_saved(name: str, tmp_path: Path) -> None:
    model = MODELS[name]()
    holdfast.save(model, tmp_path / "model")
    assert stored_manifest(tmp_path / "model") == manifest_of(model)
    assert identify(tmp_path / "model").digest["blake3"] == identify(model).digest["blake3"]
    assert list(stored_steps(tmp_path / "model")) == card(model).lineage
    assert manifest_of(holdfast.load(tmp_path / "model")) == manifest_of(model)


KEY = generate_key("ed25519")


def test_signatures_and_lineage_beside_the_model_do_not_change_its_identity(tmp_path: Path) -> None:
    holdfast.save(plain(), tmp_path)
    before = identify(tmp_path)
    write_manifest(tmp_path, KEY)
    (tmp_path / "lineage").mkdir()
    for name in ("model.sig", "lineage/0001-train.bundle.json"):
        (tmp_path / name).write_bytes(b"x")
    assert identify(tmp_path) == before
    assert identify(tmp_path).digest[MODEL_ID] == read_manifest(tmp_path, KEY.public)[0].model_id
    (tmp_path / "README.md").write_bytes(b"x")
    after = identify(tmp_path)
    assert after.digest["blake3"] == before.digest["blake3"]
    assert after.digest[MODEL_ID] != before.digest[MODEL_ID]


def test_a_single_file_is_named_by_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"x")
    assert set(identify(tmp_path / "a.safetensors").digest) == {"blake3", "sha256"}


def rewrite(path: Path, change: dict[str, object]) -> None:
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    name = sorted(header)[0]
    header[name] |= change
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": "F128"},
        {"dtype": "F64"},
        {"shape": [1]},
        {"shape": None},
        {"shape": [True]},
        {"shape": [-1]},
        {"data_offsets": [0, 4]},
        {"data_offsets": [0]},
        {"data_offsets": [1 << 40, 2 << 40]},
    ],
    ids=str,
)
def test_a_malformed_header_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    holdfast.save(plain(), tmp_path)
    rewrite(tmp_path / "model.safetensors", change)
    with pytest.raises(ArtifactError):
        stored_manifest(tmp_path)


@pytest.mark.parametrize("data", [b"", b"\xff" * 8, (2).to_bytes(8, "little") + b"{}x", (2).to_bytes(8, "little")])
def test_a_cut_or_padded_file_is_refused(tmp_path: Path, data: bytes) -> None:
    holdfast.save(plain(), tmp_path)
    (tmp_path / "model.safetensors").write_bytes(data)
    with pytest.raises(UnreadableArtifact):
        stored_manifest(tmp_path)


def test_another_description_is_refused(tmp_path: Path) -> None:
    holdfast.save(plain(), tmp_path)
    (tmp_path / "model.json").write_text('{"type": "other"}')
    with pytest.raises(UnsupportedVersion):
        stored_manifest(tmp_path)
