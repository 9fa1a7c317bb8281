"""A border search asks a platform for everything that its trace would: one truth for settings."""

from __future__ import annotations

import dataclasses
import subprocess
from typing import Any

import pytest
import torch
from torch import nn

from holdfast.errors import InvalidConfig
from holdfast.identification import LOCAL_PLATFORMS, LocalPlatform, trace_on
from holdfast.identification.border import EmulatedSetting, Lattice, Service, open_oracles, open_text_oracles
from holdfast.identification.border.pgd import differentiable
from holdfast.identification.border.setting import host_of, placed
from holdfast.identification.border.worker import Worker
from holdfast.identification.probe_nets import probe_inputs, probe_net
from holdfast.identification.settings import platform_of
from holdfast.models import build_architecture

HERE = [
    item.name
    for item in LOCAL_PLATFORMS.values()
    if not (item.slow or item.environment) and (item.runtime, item.device) == ("torch", "cpu")
]


@pytest.mark.parametrize("name", HERE)
def test_an_oracle_gives_the_bits_of_the_trace(name: str) -> None:
    if (engine := LOCAL_PLATFORMS[name].int8_engine) not in (None, *torch.backends.quantized.supported_engines):
        pytest.skip(f"this torch has no quantised engine {engine}")
    model, probes = probe_net("transformer"), probe_inputs(2)
    platform = dataclasses.replace(LOCAL_PLATFORMS[name], batch_size=2)
    with open_oracles(model, [platform], Lattice.of(probes)) as (oracle,):
        assert torch.equal(oracle.logits(probes.raw), trace_on(platform, model, probes).outputs)


def test_another_runtime_answers_images_as_its_trace_does() -> None:
    model, probes = probe_net("cnn"), probe_inputs(2)
    platform = LocalPlatform("here", runtime="numpy", options={"contraction": "einsum"}, batch_size=2)
    with open_oracles(model, [platform], Lattice.of(probes)) as (oracle,):
        assert torch.equal(oracle.logits(probes.raw), trace_on(platform, model, probes).outputs)


def test_what_another_runtime_cannot_be_is_refused() -> None:
    llama = build_architecture("llama:layers=1,tied=false").eval()
    for name in ("numpy", "numpy-einsum", "ort"):
        with pytest.raises(InvalidConfig, match=f"the platform {name} computes with"):
            placed(llama, platform_of(name))
        with pytest.raises(InvalidConfig, match="not with torch"), open_text_oracles(llama, [name]):
            pass


def test_gradients_are_those_of_the_platform_or_none() -> None:
    model, probes = probe_net("mlp"), probe_inputs(2)
    with open_oracles(model, ["default", "bf16", "int8-fbgemm", "torchscript-freeze"], Lattice.of(probes)) as oracles:
        nets = [differentiable(oracle) for oracle in oracles]
        assert [net is None for net in nets] == [False, False, True, True]
    images = probes.all()[0].requires_grad_()
    slopes = [torch.autograd.grad(net(images).sum(), images)[0] for net in nets[:2] if net is not None]
    images = images.detach().requires_grad_()
    assert torch.equal(slopes[0], torch.autograd.grad(model(images).sum(), images)[0])
    assert 0 < float((slopes[1] - slopes[0]).abs().max()) < 0.1


class Started(Exception):
    pass


@pytest.mark.parametrize("name", ["default", "onednn-avx2", "threads-2", "emulated:int8-dynamic"])
def test_a_worker_does_not_inherit_the_knobs_of_the_caller(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def start(command: list[str], **options: Any) -> None:
        seen.update(options["env"])
        raise Started

    for knob in ("ONEDNN_MAX_CPU_ISA", "MKL_CBWR", "ATEN_CPU_CAPABILITY", "OMP_NUM_THREADS"):
        monkeypatch.setenv(knob, "7")
    monkeypatch.setattr(subprocess, "Popen", start)
    with pytest.raises(Started), Worker.start(platform_of(name), nn.Linear(2, 2)):
        pass
    assert not {"MKL_CBWR", "ATEN_CPU_CAPABILITY"} & seen.keys()
    assert seen.get("ONEDNN_MAX_CPU_ISA") == ("AVX2" if name == "onednn-avx2" else None)
    assert seen["OMP_NUM_THREADS"] == ("2" if name == "threads-2" else "1")


@pytest.mark.parametrize(("slow", "seconds"), [(False, 300), (True, 3600)])
def test_a_platform_that_takes_minutes_is_waited_for(slow: bool, seconds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a trace: what compiles for minutes answers late, and is not dead."""
    monkeypatch.setattr(subprocess, "Popen", lambda command, **options: Idle())
    with Worker.start(LocalPlatform("sluggish", slow=slow), nn.Linear(2, 2)) as worker:
        assert worker.timeout == seconds


class Idle:
    def kill(self) -> None:
        return None

    communicate = kill


def test_an_emulated_format_is_computed_by_the_default_platform() -> None:
    setting = platform_of("emulated:mxint8")
    assert isinstance(setting, EmulatedSetting)
    assert host_of(setting) == LocalPlatform("emulated:mxint8")
    service = Service("far", lambda inputs: inputs.flatten(1), Lattice.of(probe_inputs(1)))
    assert differentiable(service) is None


@pytest.mark.slow
def test_a_changed_batch_reaches_a_fresh_process() -> None:
    model, probes = probe_net("transformer"), probe_inputs(4)
    alone = trace_on(dataclasses.replace(LOCAL_PLATFORMS["default"], batch_size=1), model, probes, fresh=True)
    assert torch.equal(alone.outputs, trace_on(LOCAL_PLATFORMS["batch-1"], model, probes).outputs)
    assert not torch.equal(alone.outputs, trace_on(LOCAL_PLATFORMS["default"], model, probes).outputs)


@pytest.mark.slow
def test_numpy_with_instructions_switched_off_answers_from_its_worker() -> None:
    model, probes = probe_net("transformer"), probe_inputs(2)
    platform = dataclasses.replace(LOCAL_PLATFORMS["numpy-nehalem"], batch_size=2)
    with open_oracles(model, [platform], Lattice.of(probes)) as (oracle,):
        assert torch.equal(oracle.logits(probes.raw), trace_on(platform, model, probes).outputs)
