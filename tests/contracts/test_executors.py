"""Every executor gives the rows that the plain loop gives, once each, and raises what a block raises."""

from __future__ import annotations

import os
import signal

import pytest
import torch
from torch import Tensor, nn

from holdfast.data import Dataset, dataset
from holdfast.errors import InvalidConfig, TrialError
from holdfast.execution import build_executor, campaign, executors
from holdfast.execution.executors import Executor, Inline, Processes
from holdfast.faults import BitErrors, BitFlip
from holdfast.models import build_architecture

SPECS = ["inline", "processes:1", "processes:2", "processes:workers=3"]


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return dataset("digits", split="test")


@pytest.fixture(scope="module")
def model() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return build_architecture("digits-cnn:channels=4").eval()


@pytest.mark.parametrize("spec", SPECS)
def test_fulfils_the_protocol(spec: str) -> None:
    assert isinstance(build_executor(spec), Executor)


def test_every_registered_executor_is_tested() -> None:
    elsewhere = {"ray"}  # takes a cluster: tests/unit/execution/test_ray.py, with the slow tests
    assert set(executors.names()) == {spec.partition(":")[0] for spec in SPECS} | elsewhere
    assert build_executor("inline") == Inline()
    assert build_executor("processes:2") == Processes(workers=2)


@pytest.mark.parametrize("spec", SPECS[1:])
@pytest.mark.parametrize("at", ["weights", "activations", "weights:conv*,activations"])
def test_the_table_is_the_same_everywhere(model: nn.Module, digits: Dataset, spec: str, at: str) -> None:
    expected = campaign(model, digits, BitFlip(), at=at, trials=150, seed=2)
    found = campaign(model, digits, BitFlip(), at=at, trials=150, seed=2, executor=spec)
    assert found.digest == expected.digest
    assert found.rows == expected.rows


def test_faults_of_many_bits_cross_processes(model: nn.Module, digits: Dataset) -> None:
    tables = [
        campaign(model, digits, BitErrors(rate=0.02), at="weights", trials=40, seed=2, executor=spec).digest
        for spec in ("inline", "processes:2")
    ]
    assert tables[0] == tables[1]


class Fragile(nn.Module):
    """Dies in a way of its own when a fault makes its output huge."""

    def __init__(self, inner: nn.Module, die: str) -> None:
        super().__init__()
        self.inner, self.die, self.parent = inner, die, os.getpid()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.inner(x)
        if y.abs().max() > 1e6:
            if self.die == "killed" and os.getpid() != self.parent:
                os.kill(os.getpid(), signal.SIGKILL)
            raise RuntimeError("crash")
        return y


@pytest.mark.parametrize("spec", SPECS)
def test_strict_errors_arrive_with_their_type_and_hint(model: nn.Module, digits: Dataset, spec: str) -> None:
    with pytest.raises(TrialError, match="crash") as caught:
        campaign(Fragile(model, "raise"), digits, BitFlip(), at="weights", trials=200, executor=spec, strict=True)
    assert "DUE" in caught.value.hint


def test_a_killed_worker_is_an_error_not_a_hang(model: nn.Module, digits: Dataset) -> None:
    with pytest.raises(TrialError, match="exit code -9"):
        campaign(Fragile(model, "killed"), digits, BitFlip(), at="weights", trials=200, executor="processes:2")


def test_no_workers() -> None:
    with pytest.raises(InvalidConfig, match="at least one worker"):
        build_executor("processes:0")
