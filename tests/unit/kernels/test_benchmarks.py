"""The benchmarks of the device run to their end on tiny inputs; their times here mean nothing and are not looked at."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from benchmarks import _gpu, gpu_bit_errors, gpu_guards


@pytest.fixture
def untimed(monkeypatch: pytest.MonkeyPatch) -> None:
    def once(call: Callable[[], object], **_: object) -> list[float]:
        call()
        return [1.0, 2.0, 3.0]

    if not torch.cuda.is_available():
        monkeypatch.setattr(_gpu, "milliseconds", once)


def test_state_dicts(resident: torch.device, untimed: None) -> None:
    from benchmarks import gpu_digest

    result = gpu_digest.measure(resident, {"tiny": [(3, 5), (7,), ()]})
    assert [case["bytes"] for case in result.cases] == [92, 92]
    assert json.loads(json.dumps(asdict(result)))["peer_name"] == "copy of the same bytes on the device"


def test_networks_have_the_sizes_they_are_known_by(device: torch.device) -> None:
    from benchmarks.gpu_digest import NETWORKS

    millions = {name: sum(torch.Size(s).numel() for s in shapes) * 4 / 1e6 for name, shapes in NETWORKS.items()}
    known = {"resnet-152": 241, "bert-base": 532, "vgg-19": 575, "gpt2": 652, "gpt2-xl": 6550}
    assert millions == pytest.approx(known, rel=0.01)


@pytest.mark.slow
def test_bit_errors(resident: torch.device, untimed: None) -> None:
    result = gpu_bit_errors.measure(resident, 3000, 2000, (1e-6, 0.01))
    assert [case["name"] for case in result.cases] == ["p = 1e-06", "p = 0.01"]


@pytest.mark.slow
def test_guards(resident: torch.device, untimed: None) -> None:
    result = gpu_guards.measure(resident, 2, 3, 16, 2)
    assert [case["name"] for case in result.cases] == ["ranges", "checksums"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="here there is a device")
def test_without_a_device_it_says_so(repository: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu_guards", "--json"], cwd=repository, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (3, "")
    assert "needs a CUDA device" in done.stderr
