"""Files that hide where a signature does not look: under the names and in the folders of our own evidence."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.errors import DigestMismatch
from holdfast.signing import generate_key, sign_artifact, verify_artifact
from holdfast.signing.manifests import read_manifest, verify_files, write_manifest
from holdfast.signing.opened import open_verified

KEY = generate_key("ed25519")
PLACES = ("model.outboard/x.obao", "lineage/x.bundle.json", "model.outboard/deep/x.obao")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    write_manifest(folder, KEY)
    sign_artifact(folder, KEY)
    return folder


def plant(model: Path, name: str) -> None:
    path = model / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("import os")


def verify_manifest(model: Path) -> None:
    verify_files(model, read_manifest(model, KEY.public)[0])


@pytest.mark.parametrize("place", PLACES)
def test_a_folder_under_the_name_of_evidence_hides_nothing(model: Path, place: str) -> None:
    plant(model, f"{place}/evil.py")
    with pytest.raises(DigestMismatch, match=r"evil\.py was not signed"):
        verify_artifact(model, KEY.public)
    with pytest.raises(DigestMismatch, match=r"evil\.py was not signed"):
        verify_manifest(model)
    with pytest.raises(DigestMismatch, match=r"evil\.py was not signed"):
        open_verified(model, KEY.public)


@pytest.mark.parametrize("name", ["model.sig", "model.sig2"])
def test_neither_does_a_folder_in_place_of_the_other_signature(model: Path, name: str) -> None:
    (model / name).unlink()
    plant(model, f"{name}/evil.py")
    with pytest.raises(DigestMismatch, match=r"evil\.py was not signed"):
        verify_manifest(model) if name == "model.sig" else verify_artifact(model, KEY.public)


def test_evidence_itself_is_still_not_missed(model: Path) -> None:
    for place in PLACES:
        plant(model, place)
    verify_artifact(model, KEY.public)
    verify_manifest(model)
    open_verified(model, KEY.public).close()


@pytest.mark.parametrize("name", ["lineage/evil.py", "model.outboard/evil.safetensors", "lineage/a/evil.so"])
def test_code_and_weights_among_evidence_are_refused_on_opening(model: Path, name: str) -> None:
    plant(model, name)
    with pytest.raises(DigestMismatch, match="was not signed"):
        open_verified(model, KEY.public)
