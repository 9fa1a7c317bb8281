"""One process for each GPU: the same table, each process with a device of its own, other kinds of GPU refused."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from multiprocessing.reduction import ForkingPickler

import pytest
import torch
from torch import Tensor, nn

import holdfast
from holdfast.data import Dataset
from holdfast.errors import InvalidConfig, MissingDevice, TrialError
from holdfast.execution import knobs
from holdfast.execution.executors import devices, processes
from holdfast.execution.injection import population_of
from holdfast.execution.knobs import adopt, settings
from holdfast.execution.plan import Block, draw_trials
from holdfast.execution.row import Row
from holdfast.execution.trials import TrialRunner, _arrived
from holdfast.faults import BitFlip
from holdfast.models import build_architecture

DATA = holdfast.dataset("digits", split="test").take(4)


class Placed(nn.Module):
    """Says through its first output on which device its process was told to be; dies there if it must."""

    def __init__(self, dies: str = "") -> None:
        super().__init__()
        self.inner, self.dies = nn.Linear(64, 10), dies

    def forward(self, x: Tensor) -> Tensor:
        place = os.environ.get(devices.VISIBLE, "-1")
        if place == self.dies:
            os._exit(9)
        y = self.inner(x.flatten(1))
        return torch.cat([y, torch.full_like(y[:, :1], 100.0 + float(place))], 1)


def runner_and_blocks(model: nn.Module, data: Dataset = DATA) -> tuple[TrialRunner, list[Block]]:
    population = population_of(model, "activations", data.example)
    runner = TrialRunner(model.eval(), data, engine="lockstep:rows=8")
    with torch.no_grad():
        return runner, runner.blocks(draw_trials(BitFlip(), population, len(data), 48, seed=2), 8)


def gathered(runner: TrialRunner, blocks: Sequence[Block], workers: int) -> list[Row]:
    return sorted(
        (row for rows in devices.run_on_devices(runner, blocks, workers) for row in rows), key=lambda r: r.trial
    )


@pytest.mark.slow
def test_one_process_for_each_device_gives_the_table_of_one(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(devices, "visible", lambda: ["0", "1"])
    runner, blocks = runner_and_blocks(build_architecture("digits-cnn", seed=0))
    expected = sorted((row for block in blocks for row in runner(block)), key=lambda row: row.trial)
    with caplog.at_level(logging.WARNING):
        assert gathered(runner, blocks, 4) == expected
    assert "4 workers were asked for, and 2 GPUs are here" in caplog.text
    assert devices.VISIBLE not in os.environ


@pytest.mark.slow
def test_every_process_sees_its_own_device_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one on device 1 dies, the other does not: had both seen the same one, none or both would have."""
    monkeypatch.setattr(devices, "visible", lambda: ["0", "1"])
    runner, blocks = runner_and_blocks(Placed(dies="1"))
    with pytest.raises(TrialError, match="exit code 9"):
        gathered(runner, blocks, 2)
    assert len(gathered(runner, blocks, 1)) == 48


@pytest.mark.slow
def test_a_device_of_another_kind_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "visible", lambda: ["0"])
    monkeypatch.setattr(devices, "knobs_of", lambda device: {"gpu": "another"})
    runner, blocks = runner_and_blocks(build_architecture("digits-cnn", seed=0))
    with pytest.raises(InvalidConfig, match="differs from the model's in gpu"):
        gathered(runner, blocks, 1)


@pytest.mark.parametrize(
    ("named", "expected"), [(None, ["0", "1"]), ("3, 5", ["3", "5"]), ("GPU-a,GPU-b,GPU-c", ["GPU-a", "GPU-b"])]
)
def test_devices_are_named_as_the_environment_names_them(
    named: str | None, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv(devices.VISIBLE, raising=False)
    if named is not None:
        monkeypatch.setenv(devices.VISIBLE, named)
    assert devices.visible() == expected


def test_processes_leave_a_model_on_a_gpu_to_one_process_each(monkeypatch: pytest.MonkeyPatch) -> None:
    runner, blocks = runner_and_blocks(build_architecture("digits-cnn", seed=0))
    monkeypatch.setattr(TrialRunner, "device", torch.device("cuda", 0))
    monkeypatch.setattr(processes, "run_on_devices", lambda *given: iter([list(given)]))
    assert list(processes.Processes(workers=3).run(runner, blocks)) == [[runner, blocks, 3]]


def test_a_runner_arrives_on_a_device_of_the_receiver() -> None:
    made = {"engine": "lockstep", "batch": 8}
    runner, blocks = runner_and_blocks(build_architecture("digits-cnn", seed=0))
    there = _arrived("cpu", made, build_architecture("digits-cnn", seed=0).eval(), DATA)
    assert there.device == torch.device("cpu")
    assert [there(block) for block in blocks] == [runner(block) for block in blocks]


def test_a_fault_in_one_process_is_none_in_another() -> None:
    """Tensors go to other processes as memory that all of them share: each has to take weights of its own."""
    model = build_architecture("digits-cnn", seed=0)
    runner, _ = runner_and_blocks(model)
    arrived = [ForkingPickler.loads(bytes(ForkingPickler.dumps(runner)))._model for _ in range(2)]
    with torch.no_grad():
        next(arrived[0].parameters()).fill_(7.0)
    for other in (model, arrived[1]):
        assert not bool((next(other.parameters()) == 7.0).any())


def test_settings_reach_another_process_whole() -> None:
    before = settings()
    try:
        changed = before | {
            "precision": "high",
            "cudnn_benchmark": True,
            "tf32_cudnn": False,
            "deterministic": True,
            "warn_only": True,
        }
        changed["attention"] = dict.fromkeys(before["attention"], False) | {"math": True}
        adopt(changed)
        assert settings() == changed
    finally:
        adopt(before)
    assert settings() == before


def test_a_setting_that_lets_passes_differ_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    with caplog.at_level(logging.WARNING):
        found = knobs.knobs_of(torch.device("cuda"))
    assert (found["gpu"], found["capability"], found["cudnn_benchmark"]) == ("a GPU", "9.0", "True")
    assert "may differ from run to run" in caplog.text


def test_a_campaign_on_a_cluster_without_gpus_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from contextlib import nullcontext
    from types import SimpleNamespace

    from holdfast.execution.executors import ray as rays

    cluster = SimpleNamespace(cluster_resources=lambda: {"CPU": 4.0})
    monkeypatch.setattr(rays, "_cluster", lambda address: nullcontext(cluster))
    runner, blocks = runner_and_blocks(build_architecture("digits-cnn", seed=0))
    monkeypatch.setattr(TrialRunner, "device", torch.device("cuda", 0))
    with pytest.raises(MissingDevice, match="no GPU"):
        list(rays.Ray().run(runner, blocks))
