"""The benchmarks of the device run to their end on tiny inputs; their times here mean nothing and are not looked at."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from dataclasses import asdict

import pytest
import torch
from benchmarks import _gpu, gpu_bit_errors, gpu_campaign, gpu_guards, gpu_randbet
from benchmarks._gpu_bars import BARS

TINY = {"dim": 32, "heads": 2, "depth": 2, "patch": 16, "image": 32}


def assert_read(result: _gpu.DeviceResult, name: str, count: int) -> None:
    """What is aimed at can be read out of this result."""
    figures = [bar.figure(json.loads(json.dumps(asdict(result)))) for bar in BARS if bar.benchmark == name]
    assert len(figures) == count
    assert all(map(math.isfinite, figures))


@pytest.fixture
def untimed(monkeypatch: pytest.MonkeyPatch) -> None:
    def once(call: Callable[[], object], **_: object) -> list[float]:
        call()
        return [1.0, 2.0, 3.0]

    if not torch.cuda.is_available():
        monkeypatch.setattr(_gpu, "milliseconds", once)


def test_state_dicts(resident: torch.device, untimed: None) -> None:
    from benchmarks import gpu_digest

    result = gpu_digest.measure(resident, {"gpt2-xl": [(3, 5), (7,), ()]})
    assert [case["bytes"] for case in result.cases] == [92, 92]
    assert_read(result, "gpu_digest", 2)
    assert json.loads(json.dumps(asdict(result)))["peer_name"] == "copy of the same bytes on the device"


def test_networks_have_the_sizes_they_are_known_by(device: torch.device) -> None:
    from benchmarks.gpu_digest import NETWORKS

    millions = {name: sum(torch.Size(s).numel() for s in shapes) * 4 / 1e6 for name, shapes in NETWORKS.items()}
    known = {"resnet-152": 241, "bert-base": 532, "vgg-19": 575, "gpt2": 652, "gpt2-xl": 6550}
    assert millions == pytest.approx(known, rel=0.01)


@pytest.mark.slow
def test_bit_errors(resident: torch.device, untimed: None) -> None:
    result = gpu_bit_errors.measure(resident, 3000, 2000, (1e-9, 1e-6, 0.01))
    assert [case["name"] for case in result.cases] == ["p = 1e-09", "p = 1e-06", "p = 0.01"]
    assert_read(result, "gpu_bit_errors", 2)


@pytest.mark.slow
def test_guards(resident: torch.device, untimed: None, digested_by_the_reference: None) -> None:
    result = gpu_guards.measure(resident, TINY, 2)
    ways = ["checksums, counted", "checksums, waited for", "checksums, in the product", "ranges"]
    assert [case["name"] for case in result.cases] == ways
    assert_read(result, "gpu_guards", 2)


@pytest.mark.slow
def test_campaigns(untimed: None, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    if device.type == "cpu":
        monkeypatch.setattr(gpu_campaign, "ARMS", {"fp32": (torch.float32, False)})
    result = gpu_campaign.measure(device, TINY, rows=4, trials=16, repeats=3)
    assert result.cases[-1]["name"] == "fp32, ms per fault"
    assert result.peer_name == "one hooked inference per fault"
    assert_read(result, "gpu_campaign", 1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="here there is a device")
def test_without_a_device_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu_guards", "--json"])
    with pytest.raises(SystemExit) as ended:
        _gpu.main(gpu_guards.measure)
    said = capsys.readouterr()
    assert (ended.value.code, said.out) == (3, "")
    assert "needs a CUDA device" in said.err


@pytest.mark.slow
def test_training_steps(resident: torch.device, untimed: None) -> None:
    result = gpu_randbet.measure(resident, "digits-cnn:channels=2", (1, 8, 8), 4, (0.01,))
    names = [case["name"] for case in result.cases]
    assert names[:2] == ["QAT", "RandBET"]
    assert names[-3:] == ["quantise", "errors, p = 0.01", "touched alone"]
    assert result.peer_name == "quantisation-aware step"
    assert_read(result, "gpu_randbet", 1)
