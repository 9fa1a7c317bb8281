"""Campaigns on a Ray cluster: the same table as inline, whatever the cluster does meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from holdfast.data import Dataset, dataset
from holdfast.errors import InvalidConfig, WorkerUnreachable
from holdfast.execution import CampaignReport, build_executor, campaign
from holdfast.execution.executors import Ray
from holdfast.faults import BitErrors, BitFlip
from holdfast.hardening import RangeRestriction, harden, profile
from holdfast.models import build_architecture

ray = pytest.importorskip("ray", reason="the extra 'ray' is not installed")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    try:
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    except Exception:  # Ray gives a machine 30 seconds to start, which a busy one may need twice
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture(scope="module")
def data() -> Dataset:
    return dataset("digits", split="test")


@pytest.fixture(scope="module")
def model(data: Dataset) -> nn.Module:
    torch.manual_seed(0)
    plain = build_architecture("digits-cnn").eval()
    return harden(plain, RangeRestriction(profile(plain, dataset("digits", split="train").take(64))))


def _run(model: nn.Module, data: Dataset, executor: str, **options: Any) -> CampaignReport:
    options = {"at": "activations", "trials": 160, "batch": 4, "seed": 3} | options
    return campaign(model, data, BitFlip(), executor=executor, **options)


def test_the_table_is_that_of_inline_and_of_processes(cluster: Any, model: nn.Module, data: Dataset) -> None:
    inline = _run(model, data, "inline")
    assert inline.counts["masked"] < inline.trials  # the faults did something
    assert _run(model, data, "ray").rows == inline.rows
    assert _run(model, data, "processes:2").rows == inline.rows


def test_chips_go_to_the_cluster_too(cluster: Any, model: nn.Module, data: Dataset) -> None:
    def stored(executor: str) -> CampaignReport:
        return campaign(model, data, BitErrors(rate=1e-4), at="weights", trials=12, seed=1, executor=executor)

    assert stored("ray").rows == stored("inline").rows


def test_a_machine_lost_in_the_middle_costs_no_trial(
    cluster: Any, model: nn.Module, data: Dataset, tmp_path: Path
) -> None:
    doomed = cluster.add_node(num_cpus=2)
    lost: list[int] = []

    def kill(done: int, _: int) -> None:
        if not lost and done >= 20:
            lost.append(done)
            cluster.remove_node(doomed, allow_graceful=False)

    store = tmp_path / "campaign.sqlite"
    report = _run(model, data, "ray", trials=400, store=store, progress=kill)
    assert lost
    assert lost[0] < 400
    assert report.rows == _run(model, data, "inline", trials=400).rows
    assert CampaignReport.load(store).rows == report.rows


def test_an_error_of_ours_arrives_as_itself(cluster: Any) -> None:
    def refuse(item: int) -> int:
        raise InvalidConfig(f"item {item} is refused", hint="take another")

    with pytest.raises(InvalidConfig, match="item 0 is refused") as caught:
        list(Ray().map(refuse, range(1)))
    assert caught.value.hint == "take another"


def test_a_machine_that_would_round_otherwise_is_refused(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "SSE41")  # as set where the campaign is started, and only there
    with pytest.raises(InvalidConfig, match="another platform: it differs in knobs"):
        list(Ray().map(lambda item: item, range(1)))


def test_a_cluster_that_is_not_there_is_named() -> None:
    ray.shutdown()
    with pytest.raises(WorkerUnreachable, match=r"127\.0\.0\.1:1"):
        list(Ray(address="127.0.0.1:1").map(lambda item: item, range(1)))


class _Session(nn.Module):
    offload_sites = staticmethod(list)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :10]


def test_a_session_stays_in_its_process(data: Dataset) -> None:
    with pytest.raises(InvalidConfig, match="cannot be shared"):
        campaign(_Session(), data, BitFlip(), at="outputs", trials=2, seed=0, executor="ray")


def test_the_address_is_the_bare_option() -> None:
    assert build_executor("ray:10.0.0.1:6379") == Ray(address="10.0.0.1:6379")
    assert build_executor("ray") == Ray()
