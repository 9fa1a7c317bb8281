"""From a dataset's signed commitment through training to the model: one history, joined by digest."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch.utils.data import TensorDataset

import holdfast
from holdfast.data.commitments import commit
from holdfast.errors import HoldfastError, LineageBroken
from holdfast.evidence.provenance import COMMITMENT
from holdfast.models import build_architecture
from holdfast.signing.datasets import write_commitment
from holdfast.signing.lineage import Circumstances, verify_lineage, write_steps
from holdfast.signing.lineage.origins import resource_of
from holdfast.training.recipes import Schedule
from tests.unit.signing.lineage.story import PROVIDER, STRANGER, TRAINER, data


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return the commitment to the training data, signed by its provider."""
    return write_commitment(tmp_path / "commitment", commit(data(), "digits"), PROVIDER)


def test_a_training_on_verified_data_joins_the_providers_commitment(folder: Path, tmp_path: Path) -> None:
    images = holdfast.verified(data(), folder, trust=PROVIDER.public)
    recipe = holdfast.Standard(schedule=Schedule(epochs=1, batch_size=32, lr=0.01))
    start = build_architecture("digits-cnn", seed=0)
    holdfast.save(holdfast.train(start, images, recipe, seed=0), tmp_path / "model")
    write_steps(tmp_path / "model", TRAINER, circumstances=Circumstances(known=(resource_of(images, "data"),)))
    leaves = [holdfast.signing.lineage.identify(start).digest["blake3"]]
    proof = verify_lineage(
        tmp_path / "model", TRAINER.public, origins=PROVIDER.public, statements=[folder], leaves=leaves
    )
    (found,) = (node for node in proof.nodes if node.kind == "dataset")
    assert found.digest["blake3"] == (data().digest,)
    assert found.digest[COMMITMENT] == (images.commitment.digest,)
    assert proof.signers[found.key] == (PROVIDER.public.fingerprint,)
    with pytest.raises(LineageBroken):
        verify_lineage(tmp_path / "model", TRAINER.public, leaves=leaves)
    with pytest.raises(HoldfastError):
        verify_lineage(tmp_path / "model", TRAINER.public, origins=STRANGER.public, statements=[folder], leaves=leaves)


def test_a_run_over_verified_samples_names_their_commitment(tmp_path: Path) -> None:
    images, labels = data().all()
    samples = TensorDataset(images, labels)
    folder = write_commitment(tmp_path / "commitment", commit(samples, "pairs"), PROVIDER)
    verified = holdfast.verified(samples, folder, trust=PROVIDER.public)
    with holdfast.TrainingRun(data=[verified], key=TRAINER, out=tmp_path / "model") as run:
        model = build_architecture("digits-cnn", seed=0)
        run.finish(model)
    holdfast.save(model, tmp_path / "model")
    proof = verify_lineage(tmp_path / "model", TRAINER.public, origins=PROVIDER.public, statements=[folder])
    assert [node.name for node in proof.nodes if node.kind == "dataset"] == ["pairs"]
