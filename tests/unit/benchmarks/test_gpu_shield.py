"""The benchmark of a GPU as the worker: what it compares, what it refuses, and that it runs, here on a processor."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict

import pytest
import torch
from benchmarks import _gpu, gpu_shield, gpu_shield_products
from benchmarks._gpu_bars import BARS
from benchmarks._shield_arms import Arm
from benchmarks.gpu_shield import PLAIN, WHOLE, lines, row, turns
from tests.unit.shielding.devices import taken_for_a_gpu
from tests.unit.shielding.planner.test_plan import FAST_WORKER
from torch import Tensor, nn

from holdfast.errors import IntegrityError
from holdfast.shielding import ways
from holdfast.shielding.graph import export
from holdfast.shielding.planner import plan

NET = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4)).eval()
X = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
MODEL = export(NET, X[:1], X)


def arm(name: str, call: object = MODEL) -> Arm:
    return Arm(name, "somebody", plan(MODEL, "whole", machine=FAST_WORKER), call)


def test_every_arm_takes_a_turn_and_the_model_decides_what_is_right() -> None:
    plain = {PLAIN: lambda x: NET(x)}  # floats differ from the int8 model, and may
    for batch in (1, 2):
        found = turns([arm(WHOLE), arm("same")], plain, X[:batch], MODEL(X[:batch]), 2)
        assert {name: len(times) for name, times in found.items()} == {WHOLE: 2, "same": 2, PLAIN: 2}

    def almost(x: Tensor) -> Tensor:
        return torch.nextafter(MODEL(x), torch.tensor(torch.inf))

    with pytest.raises(IntegrityError, match="arm off does not equal the plaintext int8 model"):
        turns([arm(WHOLE), arm("off", almost)], plain, X, MODEL(X), 1)


def test_figures_are_over_the_whole_model_and_over_the_gpu_alone() -> None:
    found = {WHOLE: [(8.0, 8.0, 0.0)] * 3, "all verified": [(2.0, 1.5, 0.1)] * 3, PLAIN: [(0.5, 0.1, 0.0)] * 3}
    case = row("resnet18", 32, "all verified", found)
    assert case["speed-up over whole"] == [4.0, 4.0, 4.0]
    assert case["slow-down to GPU"] == [4.0, 4.0, 4.0]
    assert (case["ms"][0], case["trusted CPU ms"]) == (2000.0, 1500.0)
    assert "resnet18 x32    all verified:   2000.00 ms, trusted CPU   1500.00 ms; over whole 4.00" in "".join(
        lines([case])
    )


@pytest.mark.slow
def test_it_runs_with_real_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker computes on the processor, so no figure means anything; every row is bit-equal or not there."""
    monkeypatch.setattr(gpu_shield, "network", lambda _: (NET, X))
    monkeypatch.setattr(gpu_shield, "measure", lambda **_: FAST_WORKER)
    cores = os.sched_getaffinity(0)
    try:
        result = gpu_shield.claim(["tiny"], [1, 3], 2, "cpu")
    finally:
        os.sched_setaffinity(0, cores)
    assert [(case["batch"], case["arm"]) for case in result.cases] == [
        (batch, name)
        for batch in (1, 3)
        for name in (WHOLE, "all verified", "all blinded", "planner", PLAIN, "GPU, bfloat16")
    ]
    assert all(case["bit-equal"] for case in result.cases if not case["arm"].startswith("GPU"))
    assert {case["device"] for case in result.cases if "device" in case} == {"cpu"}
    blinded = next(case for case in result.cases if case["arm"] == "all blinded")
    assert (blinded["MACs"]["blinded"], blinded["believed"]) == (1.0, 0.0)
    written = json.loads(json.dumps(asdict(result)))
    assert written["n"] == 2
    (bar,) = (bar for bar in BARS if bar.benchmark == "gpu_shield")
    gains = {(case["arm"], case["batch"]): case["speed-up over whole"][0] for case in result.cases}
    sessions = [arm for arm in ("all verified", "all blinded", "planner")
                if any(case["arm"] == arm and case["crossings"] for case in result.cases)]  # fmt: skip
    assert bar.figure(written) == min(max(gains[arm, batch] for arm in sessions) for batch in (1, 3))


@pytest.mark.skipif(torch.cuda.is_available(), reason="here there is a device")
def test_without_a_device_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu_shield", "--json"])
    with pytest.raises(SystemExit) as ended:
        gpu_shield.main()
    said = capsys.readouterr()
    assert (ended.value.code, said.out) == (3, "")
    assert "needs a CUDA device" in said.err


def test_products_are_compared_before_they_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def once(call: Callable[[], object], **_: object) -> list[float]:
        call()
        return [1.0, 2.0, 3.0]

    monkeypatch.setattr(_gpu, "milliseconds", once)
    monkeypatch.setattr(ways, "_TRIED", ways._TRIED[3:4])
    layers = {"conv": gpu_shield_products.conv(3, 5, 9, 3, 2), "fc": gpu_shield_products.linear(20, 7, 2)}
    with taken_for_a_gpu(monkeypatch):
        result = gpu_shield_products.measure(torch.device("cpu"), layers, (1, 2))
        names = [case["name"] for case in result.cases]
        assert names[:2] == ["conv x1 triton-64x128", "conv x1 triton-32x64"]
        assert (len(names), result.n) == (12, 3)
        assert result.cases[0]["int8_tops"] == pytest.approx(2e-9 * 3 * 5 * 25 * 27 / 2.0)
        assert json.loads(json.dumps(asdict(result)))["peer_name"] == "float16 product of the same layers"
        monkeypatch.setattr(ways, "_candidates", lambda _: iter([("off", lambda *given: ways._unrolled(*given) + 1)]))
        monkeypatch.setattr(ways, "tried", lambda *_: None)
        ways.exact_ways.cache_clear()
        with pytest.raises(IntegrityError, match="off is not exact for conv"):
            gpu_shield_products.measure(torch.device("cpu"), layers, (1,))
