"""Recording a training loop of one's own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import torch
from torch import nn

import holdfast
from holdfast.errors import DigestMismatch, HoldfastError, InvalidConfig, LineageBroken, UsageError
from holdfast.evidence.chain import Chain
from holdfast.evidence.digest import digest_file
from holdfast.evidence.provenance import Provenance, Resource
from holdfast.models import build_architecture
from holdfast.signing import sign_statement
from holdfast.signing.lineage import origin, verify_lineage
from holdfast.signing.lineage.code import commit_of
from tests.unit.signing.lineage.story import PROVIDER, STRANGER, TRAINER, data

CONFIG = {"lr": 0.1, "epochs": 2}


def fit(model: nn.Module, path: Path) -> None:
    images, labels = data().all()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    optimiser.zero_grad()
    torch.nn.functional.cross_entropy(model(images), labels).backward()
    optimiser.step()
    torch.save(model.state_dict(), path)


def recorded(folder: Path, **more: object) -> tuple[nn.Module, holdfast.TrainingRun]:
    """Train for two steps as a user would, with a checkpoint after each."""
    model = build_architecture("digits-cnn", seed=0)
    with holdfast.TrainingRun(data=[data()], config=CONFIG, seed=3, **more) as run:  # type: ignore[arg-type]
        for epoch in range(2):
            fit(model, folder / f"epoch-{epoch}.pt")
            run.checkpoint(folder / f"epoch-{epoch}.pt")
        run.finish(model.eval(), metrics={"loss": 0.5})
    return model, run


def test_a_users_loop_gives_a_lineage_that_verifies(tmp_path: Path) -> None:
    model, _ = recorded(tmp_path, key=TRAINER, out=tmp_path / "model")
    holdfast.save(model, tmp_path / "model")
    (tmp_path / "data.bundle.json").write_bytes(sign_statement(origin(data(), kind="dataset"), PROVIDER))
    proof = verify_lineage(
        tmp_path / "model", TRAINER.public, origins=PROVIDER.public, statements=[tmp_path / "data.bundle.json"]
    )
    assert [node.kind for node in proof.nodes] == ["model", "dataset"]
    with pytest.raises(LineageBroken):
        verify_lineage(tmp_path / "model", TRAINER.public)
    with pytest.raises(HoldfastError):
        verify_lineage(tmp_path / "model", STRANGER.public, leaves=[data().digest])


def test_the_provenance_holds_what_was_chosen_and_the_head_of_the_checkpoints(tmp_path: Path) -> None:
    ticks = iter(["2026-01-01T00:00:00Z", "2026-01-01T01:00:00Z"])
    _, run = recorded(tmp_path, clock=lambda: next(ticks), builder="https://ci.example.org/gpu", packages=["scipy"])
    assert run.statement is not None
    assert run.bundle is None
    made = Provenance.from_statement(run.statement)
    assert made.parameters == {"config": CONFIG, "seed": "3"}
    assert (made.started, made.finished) == ("2026-01-01T00:00:00Z", "2026-01-01T01:00:00Z")
    assert made.builder == "https://ci.example.org/gpu"
    assert {"scipy", "torch"} <= {item.name for item in made.inputs}
    chain = Chain(run.chain.start)
    for epoch in range(2):
        chain = chain.add(f"epoch-{epoch}.pt", digest_file(tmp_path / f"epoch-{epoch}.pt").blake3, epoch)
    head, metrics = made.byproducts
    assert head == Resource("checkpoint-chain", {"blake3": chain.head}, notes={"start": chain.start, "checkpoints": 2})
    assert metrics.notes == {"values": {"loss": 0.5}}


def test_the_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    one, two = (recorded(tmp_path, clock=lambda: "2026-01-01T00:00:00Z")[1].statement for _ in range(2))
    assert one is not None
    assert two is not None
    assert one.to_bytes() == two.to_bytes()


def test_a_run_goes_on_only_from_its_own_checkpoint(tmp_path: Path) -> None:
    _, run = recorded(tmp_path)
    run.save_chain(tmp_path / "chain.jsonl")
    with holdfast.TrainingRun(data=[data()], config=CONFIG, seed=3) as again:
        again.resume(tmp_path / "epoch-0.pt", tmp_path / "chain.jsonl", head=run.chain.head)
        assert again.checkpoint(tmp_path / "epoch-1.pt") == run.chain.head
        with pytest.raises(DigestMismatch, match="another head"):
            again.resume(tmp_path / "epoch-0.pt", tmp_path / "chain.jsonl", head="00" * 32)
        (tmp_path / "epoch-0.pt").write_bytes((tmp_path / "epoch-1.pt").read_bytes())
        with pytest.raises(DigestMismatch, match="not the checkpoint"):
            again.resume(tmp_path / "epoch-0.pt", tmp_path / "chain.jsonl")
        again.finish(build_architecture("digits-cnn"))
    with (
        pytest.raises(DigestMismatch, match="another training"),
        holdfast.TrainingRun(data=[data()], config=CONFIG, seed=4) as other,
    ):
        other.resume(tmp_path / "epoch-1.pt", tmp_path / "chain.jsonl")


def test_a_run_that_fails_says_nothing(tmp_path: Path) -> None:
    run = holdfast.TrainingRun(key=TRAINER, out=tmp_path / "model")

    def fail() -> None:
        with run:
            run.finish(build_architecture("digits-cnn"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert run.statement is None
    assert run.bundle is None
    assert not (tmp_path / "model").exists()


def test_a_run_without_a_model_is_refused() -> None:
    with pytest.raises(InvalidConfig, match="named no model"), holdfast.TrainingRun():
        pass


def test_a_run_is_open_from_its_beginning_to_its_model(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x")
    run = holdfast.TrainingRun()
    with pytest.raises(UsageError):
        run.checkpoint(tmp_path / "x")
    with run:
        run.finish(build_architecture("digits-cnn"))
        with pytest.raises(UsageError):
            run.checkpoint(tmp_path / "x")


def test_what_is_no_json_is_refused_at_once() -> None:
    with pytest.raises(InvalidConfig):
        holdfast.TrainingRun(config={"lr": torch.tensor(0.1)})


def git(folder: Path, *arguments: str) -> str:
    who = {f"GIT_{role}_{what}": "x@example.org" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], check=True, capture_output=True, text=True, env={**os.environ, **who}
    )
    return done.stdout.strip()


def test_the_commit_of_the_code_is_named_when_it_is_asked_for(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    with pytest.raises(InvalidConfig):
        commit_of(tmp_path)
    (tmp_path / "train.py").write_text("x")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "x")
    found = commit_of(tmp_path)
    assert found.digest == {"gitCommit": git(tmp_path, "rev-parse", "HEAD")}
    assert found.notes == {"changed": False}
    assert not found.identities
    (tmp_path / "train.py").write_text("y")
    assert commit_of(tmp_path).notes == {"changed": True}
    with pytest.raises(InvalidConfig):
        commit_of("/")
