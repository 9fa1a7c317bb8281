"""Every knob is a platform that runs, or says why it does not."""

from __future__ import annotations

import dataclasses
import importlib
from typing import ClassVar

import pytest
import torch
from torch import nn

from holdfast.errors import InvalidConfig, MissingExtra, Unavailable, UnknownName
from holdfast.evidence import canonical
from holdfast.execution import Trace
from holdfast.identification import LOCAL_PLATFORMS, LocalPlatform, collect_platforms, trace_on
from holdfast.identification.platforms import run as run_module
from holdfast.identification.platforms.process import Case, environment_for, traces_in_own_process
from holdfast.identification.probe_nets import PROBE_NETS, probe_inputs, probe_net

IN_PROCESS = [
    item.name
    for item in LOCAL_PLATFORMS.values()
    if (item.runtime, item.device) == ("torch", "cpu")
    and not (item.slow or item.environment or item.int8_engine is not None)
]


def words(name: str, net: str = "mlp") -> torch.Tensor:
    platform = dataclasses.replace(LOCAL_PLATFORMS[name], environment={})
    count = platform.batch_size if platform.batch_size in (8, 16) else 4  # a batch has to be filled
    return trace_on(platform, probe_net(net), probe_inputs(count)).outputs[:4]


def test_settings_travel_as_data() -> None:
    for platform in LOCAL_PLATFORMS.values():
        value = canonical.loads(canonical.dumps(platform.to_json()), what="platform")
        assert LocalPlatform.from_json(value) == platform


@pytest.mark.parametrize("net", ["cnn", "transformer"])
@pytest.mark.parametrize("name", IN_PROCESS)
def test_a_setting_computes_the_same_net(name: str, net: str) -> None:
    expected, found = words("fp64", net), words(name, net)
    loose = LOCAL_PLATFORMS[name].dtype in ("bfloat16", "float16") or LOCAL_PLATFORMS[name].autocast
    assert found.dtype == torch.float32
    assert torch.allclose(found, expected, atol=0.3 if loose else 1e-4)


@pytest.mark.parametrize("net", PROBE_NETS)
@pytest.mark.parametrize("runtime", ["numpy", "numpy-einsum", "ort", "ort-unoptimised", "openvino-fp32"])
def test_another_runtime_computes_the_same_net_in_other_bits(runtime: str, net: str) -> None:
    package = LOCAL_PLATFORMS[runtime].runtime
    pytest.importorskip(package)
    default, found = words("default", net), words(runtime, net)
    assert torch.allclose(found, words("fp64", net), rtol=1e-3, atol=1e-4)
    assert not torch.equal(found, default)


def test_settings_of_this_process_are_put_back() -> None:
    before = torch.get_num_threads(), torch.get_float32_matmul_precision(), torch.backends.quantized.engine
    words("threads-3")
    words("matmul-medium")
    words("int8-qnnpack")
    assert before == (
        torch.get_num_threads(),
        torch.get_float32_matmul_precision(),
        torch.backends.quantized.engine,
    )


def kernels() -> tuple[bool, bool]:
    """Which libraries torch may use in this process at this moment."""
    return torch.backends.mkldnn.enabled, torch._C._get_nnpack_enabled()


class Looking(nn.Module):
    """Notes which kernels it runs on."""

    seen: ClassVar[list[tuple[bool, bool]]] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(kernels())
        return x.flatten(1)


def test_libraries_are_switched_off_for_one_trace_and_on_again_after_it() -> None:
    before = kernels()
    trace_on(LOCAL_PLATFORMS["onednn-nnpack-off"], Looking(), probe_inputs(1))
    assert Looking.seen[-1] == (False, False)
    assert kernels() == before == (True, True)


def test_a_trace_describes_the_setting_it_was_computed_under() -> None:
    found = trace_on(LOCAL_PLATFORMS["onednn-off"], probe_net("mlp"), probe_inputs(1)).platform
    assert (found["modes"]["onednn"], found["setting"]) == ("False", "onednn-off")
    assert trace_on(LOCAL_PLATFORMS["threads-3"], probe_net("mlp"), probe_inputs(1)).platform["threads"] == 3
    medium = trace_on(LOCAL_PLATFORMS["matmul-medium"], probe_net("mlp"), probe_inputs(1)).platform
    assert medium["modes"]["matmul_precision"] == "medium"


def test_threads_show_in_global_reductions_and_not_in_batches() -> None:
    assert not torch.equal(words("default", "reductions"), words("threads-2", "reductions"))
    assert torch.equal(words("default", "cnn"), words("threads-2", "cnn"))


def test_the_knobs_of_the_caller_do_not_reach_a_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library made in a shell with one knob set would call that knob the default."""
    for name in ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY", "MKL_CBWR", "OPENBLAS_CORETYPE", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "7")
    found = environment_for(LOCAL_PLATFORMS["aten-default"])
    assert found["ATEN_CPU_CAPABILITY"] == "default"
    assert found["OMP_NUM_THREADS"] == "1"
    assert not {"ONEDNN_MAX_CPU_ISA", "MKL_CBWR", "OPENBLAS_CORETYPE"} & found.keys()
    assert environment_for(LOCAL_PLATFORMS["threads-4"])["OMP_NUM_THREADS"] == "4"


class Branching(nn.Module):
    """Looks at its input before it decides what to do."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1) if float(x.sum()) > 0 else -x.flatten(1)


class Odd(nn.Module):
    """Uses a function that has no twin."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.erfinv(x.flatten(1) / 4)


def test_what_numpy_cannot_run_is_said() -> None:
    platform = dataclasses.replace(LOCAL_PLATFORMS["numpy"], environment={})
    with pytest.raises(Unavailable, match="cannot be traced"):
        trace_on(platform, Branching(), probe_inputs(2))
    with pytest.raises(Unavailable, match="function erfinv has no numpy twin"):
        trace_on(platform, Odd(), probe_inputs(2))
    strange = nn.Sequential(nn.Conv2d(3, 2, 3, dilation=2), nn.Flatten())
    with pytest.raises(Unavailable, match="dilated"):
        trace_on(platform, strange, probe_inputs(2))


@pytest.mark.parametrize(
    "pool",
    [
        nn.MaxPool2d(2, dilation=2),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.AvgPool2d(3, 2, ceil_mode=True),
        nn.AvgPool2d(3, padding=1, count_include_pad=False),
        nn.AvgPool2d(2, divisor_override=3),
        nn.BatchNorm2d(3, track_running_stats=False),
    ],
)
def test_settings_of_layers_that_numpy_has_not_are_refused_and_not_left_out(pool: nn.Module) -> None:
    platform = dataclasses.replace(LOCAL_PLATFORMS["numpy"], environment={})
    with pytest.raises(Unavailable, match="has no numpy twin here"):
        trace_on(platform, nn.Sequential(pool, nn.Flatten()), probe_inputs(2))


@pytest.mark.parametrize(
    "layer",
    [
        nn.AvgPool2d(2, count_include_pad=False),
        nn.AvgPool2d(3, padding=1),
        nn.MaxPool2d(3, 2, padding=1),
        nn.BatchNorm2d(3, affine=False),
        nn.LayerNorm(16, elementwise_affine=False),
        nn.LayerNorm(16, bias=False),
        nn.LayerNorm((16, 16)),
    ],
)
def test_settings_of_layers_that_numpy_has_compute_what_torch_does(layer: nn.Module) -> None:
    platform = dataclasses.replace(LOCAL_PLATFORMS["numpy"], environment={})
    model = nn.Sequential(layer, nn.Flatten())
    found = trace_on(platform, model, probe_inputs(2)).outputs
    assert torch.allclose(found, trace_on(LOCAL_PLATFORMS["default"], model, probe_inputs(2)).outputs, atol=1e-5)


def test_chunks_are_cut_where_torch_cuts_them() -> None:
    from holdfast.identification.platforms.numpy_layers import METHODS

    numbers = torch.arange(10.0)
    found = METHODS["chunk"](None, numbers.numpy(), 4)
    assert [part.tolist() for part in found] == [part.tolist() for part in numbers.chunk(4)]


def test_a_name_that_does_not_exist_is_refused_before_anything_is_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    traced = list[str]()
    monkeypatch.setattr(run_module, "trace_on", lambda platform, model, probes: traced.append(platform.name))
    with pytest.raises(UnknownName, match="bf61"):
        collect_platforms(probe_net("mlp"), probe_inputs(1), ["default", "bf61"])
    assert not traced


def test_a_runtime_that_is_not_installed_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.import_module

    def without(name: str, *rest: object) -> object:
        if name in ("onnxruntime", "openvino"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(importlib, "import_module", without)
    for platform, extra in (("ort", "ort"), ("openvino", "openvino")):
        with pytest.raises(MissingExtra) as caught:
            trace_on(LOCAL_PLATFORMS[platform], probe_net("mlp"), probe_inputs(2))
        assert f"holdfast[{extra}]" in caught.value.hint


def test_settings_that_do_not_exist_are_refused() -> None:
    for wrong in (
        LocalPlatform("x", attention="cubist"),
        LocalPlatform("x", compiler="gcc"),
        LocalPlatform("x", runtime="abacus"),
        LocalPlatform("x", threads=0),
        LocalPlatform("x", batch_size=0),
    ):
        with pytest.raises(InvalidConfig):
            trace_on(wrong, probe_net("mlp"), probe_inputs(2))
    with pytest.raises(Unavailable, match="no quantised engine"):
        trace_on(LocalPlatform("x", int8_engine="steam"), probe_net("mlp"), probe_inputs(2))


@pytest.mark.slow
def test_a_process_of_its_own_answers_all_it_can_and_refuses_the_rest() -> None:
    """One start for several models; a setting outside the catalogue keeps its batch size there."""
    platform = LocalPlatform("pairs", runtime="numpy", options={"contraction": "blas"}, batch_size=1)
    cases = [Case("mlp", probe_net("mlp"), probe_inputs(3)), Case("cnn", probe_net("cnn"), probe_inputs(2))]
    found = traces_in_own_process(platform, cases)
    assert isinstance(found["mlp"], Trace)
    assert isinstance(found["cnn"], Trace)
    assert found["mlp"].probe_digest == probe_inputs(3).digest
    assert torch.equal(found["mlp"].outputs, words("numpy-batch-1")[:3])
    dead = traces_in_own_process(LocalPlatform("x", int8_engine="steam"), cases[:1])["mlp"]
    assert isinstance(dead, Unavailable)
    assert "no quantised engine steam" in str(dead)


def test_a_process_that_dies_is_a_reason() -> None:
    found = traces_in_own_process(
        LocalPlatform("x", environment={"PYTHONHOME": "/nowhere"}), [Case("mlp", probe_net("mlp"), probe_inputs(1))]
    )["mlp"]
    assert isinstance(found, Unavailable)
    assert "process ended with" in str(found)


@pytest.mark.slow
def test_start_up_settings_reach_the_runtimes() -> None:
    model, probes = probe_net("transformer"), probe_inputs(4)
    names = ["default", "aten-default", "onednn-sse41", "mkl-compatible", "numpy", "numpy-nehalem"]
    found = collect_platforms(model, probes, names)
    assert len({found[name].outputs.numpy().tobytes() for name in names}) == len(names)
