"""Files that hide where a signature does not look: under the names and in the folders of our own evidence."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.cli import main
from holdfast.errors import DigestMismatch, HoldfastError, UnreadableArtifact
from holdfast.signing import generate_key, sign_artifact, verify, verify_artifact, verify_passport, write_passport
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


@pytest.fixture
def impatient() -> Iterator[None]:
    """End what still waits after 30 seconds."""

    def end(*_: object) -> None:
        raise TimeoutError("still waiting")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(30)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


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


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("name", ["model.sig", "model.sig2"])
def test_a_pipe_in_place_of_a_signature_keeps_nobody_waiting(model: Path, name: str) -> None:
    (model / name).unlink()
    os.mkfifo(model / name)
    with pytest.raises(UnreadableArtifact):  # nor does it pass for a missing one, beside which the other would do
        verify(model, trust=KEY.public)
    read = (
        (lambda: read_manifest(model, KEY.public))
        if name == "model.sig2"
        else lambda: verify_artifact(model, KEY.public)
    )
    with pytest.raises(UnreadableArtifact):
        read()


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("name", ["passport.pub", "passport.bundle.json", "records/a.json"])
def test_a_pipe_in_a_passport_keeps_nobody_waiting(tmp_path: Path, name: str) -> None:
    (tmp_path / "records").mkdir()
    (tmp_path / "records/a.json").write_text("{}")
    write_passport(tmp_path, KEY)
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    with pytest.raises(HoldfastError):
        verify_passport(tmp_path)


@pytest.mark.usefixtures("impatient")
def test_a_pipe_in_place_of_a_policy_or_a_bundle_keeps_nobody_waiting(model: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert main(["check", str(model), "--policy", str(tmp_path / "pipe")]) == 2
    with pytest.raises(UnreadableArtifact):
        verify_artifact(model, KEY.public, signature=tmp_path / "pipe")


def test_what_the_user_names_may_come_through_a_pipe(model: Path, tmp_path: Path) -> None:
    (tmp_path / "k.pub").write_bytes(KEY.public.pem)
    words = [sys.executable, "-c", "from holdfast.cli import entry; entry()", "verify", str(model), "--trust"]
    command = ["bash", "-c", '"$@" <(cat "$0")', str(tmp_path / "k.pub"), *words]
    assert subprocess.run(command, check=False, capture_output=True).returncode == 0
