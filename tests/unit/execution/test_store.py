from __future__ import annotations

import os
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import torch
from torch import nn

from holdfast.data import Dataset
from holdfast.errors import InvalidConfig, StorageError, UnknownName, UnreadableArtifact
from holdfast.execution import CampaignReport, campaign
from holdfast.faults import BitFlip
from holdfast.models import build_architecture


def test_the_store_holds_the_table(trained: nn.Module, digits: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "campaign.sqlite"
    first = campaign(trained, digits, BitFlip(), at="activations", trials=100, store=path)
    second = campaign(trained, digits, BitFlip(), at="weights", trials=50, store=path, name="weights")
    assert CampaignReport.load(path).digest == first.digest
    assert CampaignReport.load(path, "weights").rows == second.rows
    assert CampaignReport.load(path).plan == first.plan
    assert [item.name for item in tmp_path.iterdir()] == ["campaign.sqlite"]  # nothing beside it, also after reading


def test_a_finished_campaign_is_not_run_again(trained: nn.Module, digits: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "campaign.sqlite"
    first = campaign(trained, digits, BitFlip(), at="weights", trials=60, store=path)
    steps: list[int] = []
    again = campaign(
        trained,
        digits,
        BitFlip(),
        at="weights",
        trials=60,
        store=path,
        progress=lambda done, _: steps.append(done),
    )
    assert again.digest == first.digest
    assert steps == []


def test_interrupted_by_the_user(trained: nn.Module, digits: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "campaign.sqlite"

    def interrupt(done: int, total: int) -> None:
        if done >= 64:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        campaign(trained, digits, BitFlip(), at="weights", trials=200, store=path, progress=interrupt)
    assert CampaignReport.load(path).trials == 64
    steps: list[int] = []
    resumed = campaign(
        trained,
        digits,
        BitFlip(),
        at="weights",
        trials=200,
        store=path,
        progress=lambda done, _: steps.append(done),
    )
    assert steps[0] == 96
    assert resumed.digest == campaign(trained, digits, BitFlip(), at="weights", trials=200).digest


CHILD = """
import sys, time, torch
from holdfast.data import dataset
from holdfast.execution import campaign
from holdfast.faults import BitFlip
from holdfast.models import build_architecture
torch.manual_seed(0)
model = build_architecture("digits-cnn:channels=8").eval()
campaign(model, dataset("digits", split="test"), BitFlip(), at="activations", trials=300, batch=8, store=sys.argv[1],
    executor="processes:2", progress=lambda done, total: (print(done, flush=True), time.sleep(0.05)))
"""


def start_child(path: Path, blocks: int) -> tuple[subprocess.Popen[str], list[int], list[str]]:
    """Start a campaign in a process of its own; return it once it has written ``blocks``, and its workers."""
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    done = [int(child.stdout.readline()) for _ in range(blocks)]
    return child, done, Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()


def kill(child: subprocess.Popen[str]) -> None:
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert child.stdout is not None
    child.stdout.close()


@pytest.mark.slow
def test_kill_9_loses_at_most_the_open_block(digits: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "killed.sqlite"
    child, done, workers = start_child(path, 5)
    kill(child)
    before = CampaignReport.load(path)
    assert done[-1] <= before.trials < 300
    assert len(workers) == 2
    deadline = time.monotonic() + 10
    while any(alive(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(alive(pid) for pid in workers)  # they notice that nobody listens

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_architecture("digits-cnn:channels=8").eval()
    steps: list[int] = []
    resumed = campaign(
        model,
        digits,
        BitFlip(),
        at="activations",
        trials=300,
        batch=8,
        store=path,
        progress=lambda done, _: steps.append(done),
    )
    assert steps[0] - before.trials <= 8
    assert resumed.digest == campaign(model, digits, BitFlip(), at="activations", trials=300, batch=8).digest
    assert set(before.rows) <= set(resumed.rows)
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT count(*), count(DISTINCT trial) FROM trials").fetchone() == (300, 300)


def alive(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_another_campaign_under_the_same_name(trained: nn.Module, digits: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "campaign.sqlite"
    campaign(trained, digits, BitFlip(), at="weights", trials=10, store=path)
    with pytest.raises(InvalidConfig, match="differs in seed"):
        campaign(trained, digits, BitFlip(), at="weights", trials=10, store=path, seed=1)
    assert CampaignReport.load(path).trials == 10


def test_unusable_stores(trained: nn.Module, digits: Dataset, tmp_path: Path) -> None:
    junk = tmp_path / "junk.sqlite"
    junk.write_bytes(b"this is no database, but it is long enough to be looked at" * 20)
    with pytest.raises(UnreadableArtifact, match="not a campaign store"):
        campaign(trained, digits, BitFlip(), at="weights", trials=10, store=junk)
    assert junk.read_bytes().startswith(b"this is no database")
    with pytest.raises(StorageError) as caught:
        campaign(trained, digits, BitFlip(), at="weights", trials=10, store=tmp_path / "absent" / "x.sqlite")
    assert "store=" in caught.value.hint
    with pytest.raises(StorageError):
        CampaignReport.load(tmp_path / "absent.sqlite")
    campaign(trained, digits, BitFlip(), at="weights", trials=10, store=tmp_path / "ok.sqlite", name="weights")
    with pytest.raises(UnknownName) as unknown:
        CampaignReport.load(tmp_path / "ok.sqlite", "weigths")
    assert "weights" in unknown.value.hint


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Make every write beyond ``size`` bytes of a file fail, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_full_disk_keeps_what_was_written(trained: nn.Module, digits: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "campaign.sqlite"
    with file_size_limit(60_000), pytest.raises(StorageError) as caught:
        campaign(trained, digits, BitFlip(), at="activations", trials=4000, store=path)
    assert "free space" in caught.value.hint
    kept = CampaignReport.load(path).trials
    assert 0 < kept < 4000
    resumed = campaign(trained, digits, BitFlip(), at="activations", trials=4000, store=path)
    assert resumed.trials == 4000
