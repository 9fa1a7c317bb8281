"""A training that goes on must go on from its own checkpoints."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from holdfast.data import Dataset, dataset
from holdfast.errors import DigestMismatch, UnreadableArtifact, VerificationError
from holdfast.evidence.chain import Chain
from holdfast.evidence.digest import digest_bytes, digest_file
from holdfast.models import build_architecture
from holdfast.training import Journal, Standard, train
from holdfast.training.recipes import Schedule


@pytest.fixture(scope="module")
def data() -> Dataset:
    return dataset("digits", split="train").take(64)


def run(data: Dataset, folder: Path, *, seed: int = 0, head: str | None = None) -> tuple[nn.Module, Journal]:
    journal = Journal(folder=folder, keep=1, head=head)
    recipe = Standard(schedule=Schedule(epochs=3, batch_size=32, lr=0.01))
    return train(build_architecture("digits-cnn", seed=1), data, recipe, seed=seed, journal=journal), journal


@pytest.fixture(scope="module")
def whole(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chain") / "whole"
    run(data, folder)
    return folder


@pytest.fixture
def cut(whole: Path, tmp_path: Path) -> Path:
    """Return a training that was interrupted after its second epoch."""
    shutil.copytree(whole, tmp_path / "cut")
    (tmp_path / "cut" / "snapshot-000003.safetensors").unlink()
    return tmp_path / "cut"


def snapshot(folder: Path) -> Path:
    return folder / "snapshot-000002.safetensors"


def poison(path: Path) -> None:
    """Write a well-formed snapshot of the same training and epoch with one weight changed, as an attacker would."""
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()["holdfast"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no mapping
    name = next(name for name in tensors if name.startswith("model.") and tensors[name].is_floating_point())
    tensors[name] = tensors[name] + 1
    save_file(tensors, str(path) + ".bare")
    header["tensors"] = digest_bytes(Path(str(path) + ".bare").read_bytes())
    Path(str(path) + ".bare").unlink()
    save_file(tensors, str(path), {"holdfast": json.dumps(header)})


def test_an_untouched_training_goes_on_to_the_same_chain(data: Dataset, whole: Path, cut: Path) -> None:
    _, journal = run(data, cut)
    assert journal.chain == Chain.from_bytes((whole / "checkpoints.jsonl").read_bytes())
    assert [link.content for link in journal.chain.links] == [
        digest_file(whole / f"snapshot-00000{epoch}.safetensors").blake3 for epoch in (1, 2, 3)
    ]


def test_a_poisoned_checkpoint_is_refused(data: Dataset, cut: Path) -> None:
    poison(snapshot(cut))
    with pytest.raises(DigestMismatch, match="not the checkpoint that was written"):
        run(data, cut)


def test_the_checkpoint_of_another_epoch_is_refused(data: Dataset, cut: Path) -> None:
    shutil.copy(cut / "snapshot-000001.safetensors", snapshot(cut))
    with pytest.raises(DigestMismatch):
        run(data, cut)


def test_the_checkpoint_of_another_training_is_refused(data: Dataset, cut: Path, tmp_path: Path) -> None:
    run(data, tmp_path / "other", seed=7)
    shutil.copy(snapshot(tmp_path / "other"), snapshot(cut))
    with pytest.raises(Exception, match="seed"):
        run(data, cut)


def test_a_planted_later_checkpoint_is_refused(data: Dataset, cut: Path) -> None:
    shutil.copy(snapshot(cut), cut / "snapshot-000007.safetensors")
    with pytest.raises(DigestMismatch, match="no checkpoint of this training"):
        run(data, cut)


def test_a_removed_chain_is_refused(data: Dataset, cut: Path) -> None:
    (cut / "checkpoints.jsonl").unlink()
    with pytest.raises(DigestMismatch, match=r"checkpoints\.jsonl"):
        run(data, cut)


def test_an_edited_chain_is_refused(data: Dataset, cut: Path) -> None:
    lines = (cut / "checkpoints.jsonl").read_bytes().splitlines()
    (cut / "checkpoints.jsonl").write_bytes(b"\n".join([lines[0], *lines[2:]]))
    with pytest.raises(DigestMismatch, match="does not follow"):
        run(data, cut)


def test_the_chain_of_another_training_is_refused(data: Dataset, cut: Path) -> None:
    chain = Chain.of({"another": "training"}).add(snapshot(cut).name, digest_file(snapshot(cut)).blake3, 2)
    (cut / "checkpoints.jsonl").write_bytes(chain.to_bytes())
    with pytest.raises(DigestMismatch, match="another training"):
        run(data, cut)


def test_a_damaged_checkpoint_is_refused(data: Dataset, cut: Path) -> None:
    snapshot(cut).write_bytes(snapshot(cut).read_bytes()[:-1])
    with pytest.raises(UnreadableArtifact):
        run(data, cut)


def test_replacing_snapshot_and_chain_together_needs_the_head_to_be_noticed(data: Dataset, cut: Path) -> None:
    chain = Chain.from_bytes((cut / "checkpoints.jsonl").read_bytes())
    head = chain.upto(snapshot(cut).name, digest_file(snapshot(cut)).blake3).head
    poison(snapshot(cut))
    forged = Chain(chain.start, chain.links[:1]).add(snapshot(cut).name, digest_file(snapshot(cut)).blake3, 2)
    (cut / "checkpoints.jsonl").write_bytes(forged.to_bytes())
    with pytest.raises(VerificationError, match="expected"):
        run(data, cut, head=head)
    before = torch.random.get_rng_state()
    run(data, cut)  # without the head nothing tells: docs/formats/lineage.md says so
    assert torch.equal(before, torch.random.get_rng_state())
