"""An interrupted training goes on as if nothing had happened: the same bits, the same metrics."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from holdfast.data import Dataset, dataset
from holdfast.errors import InvalidConfig, UnreadableArtifact, UnsupportedVersion, UsageError
from holdfast.numerics import bits
from holdfast.seeds import Seed
from holdfast.training import Alternating, Journal, RandomBitErrorTraining, Recipe, Standard, train
from holdfast.training.recipes import Schedule

SCHEDULE = Schedule(epochs=4, batch_size=64, lr=0.05, decay="cosine", per="batch", warmup=1, ema=0.9)
EVERYTHING = RandomBitErrorTraining(
    rate=0.02, clip=0.3, clip_scope="learned", start="released", start_loss=2.2, ramp="linear", schedule=SCHEDULE
)
RECIPES = [
    Standard(schedule=replace(SCHEDULE, ema=None)),
    EVERYTHING,
    replace(EVERYTHING, clip_scope="layer", start="once", start_loss=2.32, chips=2, mixed=True),
    Alternating(rate=0.02, clip=0.3, start_loss=2.3, schedule=SCHEDULE),
]


class Killed(Exception):
    pass


class Net(nn.Module):
    """Every kind of state: running statistics, dropout, a frozen layer, tied weights."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.3)
        self.one, self.two = nn.Linear(64, 64), nn.Linear(64, 64)
        self.two.weight = self.one.weight
        self.last = nn.Linear(64, 10)
        self.first.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.first(x))).mean(1).flatten(1)
        return self.last(torch.relu(self.two(self.drop(torch.relu(self.one(x))))))


@dataclass(frozen=True)
class Noise:
    """Augmentation that draws; fails once it was called ``calls`` times, as a killed process would."""

    spread: float = 0.1
    calls: int | None = None

    def __call__(self, images: Tensor, seed: Seed) -> Tensor:
        if self.calls is not None:
            object.__setattr__(self, "calls", self.calls - 1)
            if self.calls < 0:
                raise Killed
        return images + self.spread * torch.randn(images.shape, generator=seed.torch())

    def __repr__(self) -> str:
        return f"Noise({self.spread})"


@pytest.fixture(scope="module")
def few() -> Dataset:
    return dataset("digits", split="train").take(300)


@pytest.fixture
def net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Net()


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(a == b and bits.bit_equal(x, y) for (a, x), (b, y) in pairs)


def metrics(folder: Path) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        assert line.pop("seconds") > 0
    return lines


# 300 samples make five batches: between epochs, mid-epoch, before the first snapshot
@pytest.mark.parametrize("calls", [10, 13, 2])
@pytest.mark.parametrize("recipe", RECIPES, ids=["standard", "everything", "layer", "alternating"])
def test_a_resumed_training_gives_the_same_bits(
    net: nn.Module, few: Dataset, tmp_path: Path, recipe: Recipe, calls: int
) -> None:
    whole = train(net, few, recipe, seed=5, augment=Noise(), journal=Journal(folder=tmp_path / "whole"))
    unseen = train(net, few, recipe, seed=5, augment=Noise())
    with pytest.raises(Killed):
        train(net, few, recipe, seed=5, augment=Noise(calls=calls), journal=Journal(folder=tmp_path / "cut"))
    torch.manual_seed(99)  # nothing outside may matter
    resumed = train(net, few, recipe, seed=5, augment=Noise(), journal=Journal(folder=tmp_path / "cut"))
    assert same(whole, unseen)
    assert same(whole, resumed)
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "cut")
    if recipe is not RECIPES[0]:
        assert any(line["perturbed"] is not None for line in metrics(tmp_path / "cut"))


SCRIPT = """
import os, signal
from holdfast.data import dataset
from holdfast.models import build_architecture
from holdfast.training import Journal, RandomBitErrorTraining, train
from holdfast.training.recipes import Schedule

calls = [0]

def augment(images, seed):
    calls[0] += 1
    if calls[0] > {most}:
        os.kill(os.getpid(), signal.SIGKILL)
    return images

augment.__module__ = "killed"
recipe = RandomBitErrorTraining(rate=0.02, start_loss=2.2, schedule=Schedule(epochs=3, batch_size=64, lr=0.1))
net = build_architecture("digits-cnn:channels=4", seed=0)
train(net, dataset("digits", split="train").take(300), recipe, augment=augment, journal=Journal(folder={folder!r}))
"""


@pytest.mark.slow
def test_a_process_killed_mid_epoch_leaves_whole_snapshots(tmp_path: Path) -> None:
    script = SCRIPT.format(folder=str(tmp_path / "cut"), most=12)
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
    assert [path.name for path in (tmp_path / "cut").glob("*.safetensors")] == ["snapshot-000002.safetensors"]
    for name in ("cut", "whole"):  # goes on in a process other than the one that began
        exec(SCRIPT.format(folder=str(tmp_path / name), most=100), {})
    one, two = ((tmp_path / name / "snapshot-000003.safetensors").read_bytes() for name in ("cut", "whole"))
    assert one == two


def test_a_finished_training_is_not_repeated(net: nn.Module, few: Dataset, tmp_path: Path) -> None:
    recipe, journal = Standard(schedule=SCHEDULE), Journal(folder=tmp_path)
    done = train(net, few, recipe, augment=Noise(), journal=journal)
    seen: list[tuple[int, int]] = []
    again = train(net, few, recipe, augment=Noise(calls=0), journal=journal, progress=lambda *args: seen.append(args))
    assert same(done, again)
    assert seen == [(4, 4)]


def test_snapshots_are_taken_and_kept_as_asked(net: nn.Module, few: Dataset, tmp_path: Path) -> None:
    schedule = Schedule(epochs=7, batch_size=300)
    for name, options, kept in (
        ("newest", {}, [7]),
        ("all", {"keep": 1}, [1, 2, 3, 4, 5, 6, 7]),
        ("some", {"every": 2, "keep": 4}, [4, 7]),
    ):
        folder = tmp_path / name
        train(net, few, Standard(schedule=schedule), journal=Journal(folder=folder, **options))
        assert sorted(int(path.stem[-6:]) for path in folder.glob("snapshot-*")) == kept
        assert [line["epoch"] for line in metrics(folder)] == list(range(7))


def test_a_snapshot_is_tensors_and_json(net: nn.Module, few: Dataset, tmp_path: Path) -> None:
    train(net, few, EVERYTHING, journal=Journal(folder=tmp_path))
    with safe_open(tmp_path / "snapshot-000004.safetensors", framework="pt") as file:
        names, header = set(file.keys()), json.loads(file.metadata()["holdfast"])
    assert {"model.norm.running_mean", "momentum.last.weight", "average.last.weight"} <= names
    assert "momentum.first.weight" not in names
    assert header["training"]["parameters"]["recipe"] == "random-bit-error"
    assert header["training"]["inputs"] == {"data": few.digest}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"recipe": replace(EVERYTHING, rate=0.03)}, "parameters.rate"),
        ({"recipe": replace(EVERYTHING, schedule=replace(SCHEDULE, lr=0.01))}, "parameters.schedule.lr"),
        ({"seed": 1}, "parameters.seed"),
        ({"augment": None}, "parameters.augment"),
    ],
)
def test_another_training_is_refused_by_name(
    net: nn.Module, few: Dataset, tmp_path: Path, change: dict[str, object], named: str
) -> None:
    wanted = {"recipe": EVERYTHING, "seed": 0, "augment": Noise()}
    train(net, few, **wanted, journal=Journal(folder=tmp_path))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(InvalidConfig, match=named) as caught:
        train(net, few, **wanted | change, journal=Journal(folder=tmp_path))
    assert "another folder" in caught.value.hint
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_other_data_or_another_start_are_refused(net: nn.Module, few: Dataset, tmp_path: Path) -> None:
    recipe = Standard(schedule=Schedule(epochs=1))
    train(net, few, recipe, journal=Journal(folder=tmp_path))
    with pytest.raises(InvalidConfig, match=r"inputs\.data"):
        train(net, few.take(200), recipe, journal=Journal(folder=tmp_path))
    with torch.no_grad():
        net.last.bias.add_(1)
    with pytest.raises(InvalidConfig, match="start differs"):
        train(net, few, recipe, journal=Journal(folder=tmp_path))


def test_damaged_snapshots_are_named(net: nn.Module, few: Dataset, tmp_path: Path) -> None:
    recipe, journal = Standard(schedule=Schedule(epochs=1)), Journal(folder=tmp_path)
    train(net, few, recipe, journal=journal)
    path = tmp_path / "snapshot-000001.safetensors"
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[-5] ^= 1
    for damaged in (whole[: len(whole) // 2], b"", bytes(flipped), b"\x10" + bytes(30)):
        path.write_bytes(damaged)
        with pytest.raises(UnreadableArtifact, match="snapshot-000001") as caught:
            train(net, few, recipe, journal=journal)
        assert "delete it" in caught.value.hint
    path.write_bytes(whole.replace(b"training-snapshot/v1", b"training-snapshot/v9"))
    with pytest.raises(UnsupportedVersion):
        train(net, few, recipe, journal=journal)


def test_metrics_cut_short_by_a_kill_are_repaired(net: nn.Module, few: Dataset, tmp_path: Path) -> None:
    recipe = Standard(schedule=SCHEDULE)
    with pytest.raises(Killed):
        train(net, few, recipe, augment=Noise(calls=13), journal=Journal(folder=tmp_path, every=2))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write("[" * 200_000 + '\n{"epoch": 2, "lo')
    train(net, few, recipe, augment=Noise(), journal=Journal(folder=tmp_path, every=2))
    assert [line["epoch"] for line in metrics(tmp_path)] == [0, 1, 2, 3]


def test_a_training_that_fails_at_once_leaves_no_folder(net: nn.Module, few: Dataset, tmp_path: Path) -> None:
    bad, good = (Standard(schedule=Schedule(epochs=1, batch_size=16, lr=lr)) for lr in (1e30, 0.01))
    with pytest.raises(UsageError, match="epoch 0, batch"):
        train(net, few, bad, journal=Journal(folder=tmp_path / "new"))
    assert not (tmp_path / "new").exists()
    (tmp_path / "old").mkdir()
    with pytest.raises(UsageError, match="epoch 0, batch"):
        train(net, few, bad, journal=Journal(folder=tmp_path / "old"))
    assert (tmp_path / "old").exists()  # it was not ours to remove
    train(net, few, good, journal=Journal(folder=tmp_path / "new"))
    assert len(metrics(tmp_path / "new")) == 1


def test_bad_journals() -> None:
    for bad in ({"every": 0}, {"keep": 0}, {"every": 2, "keep": 3}):
        with pytest.raises(InvalidConfig):
            Journal(folder="nowhere", **bad)
