"""A knob is taken or refused: one that torch ignores would make two names of one platform."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from holdfast.errors import InvalidConfig, MissingDevice, Unavailable
from holdfast.execution import Trace, predict
from holdfast.identification import LOCAL_PLATFORMS, LocalPlatform, trace_on
from holdfast.identification.platforms import knobs, torch_stacks
from holdfast.identification.platforms.devices import moved, obstacle, require_device
from holdfast.identification.platforms.knobs import asked, turned
from holdfast.identification.platforms.process import Case, environment_for, traces_in_own_process
from holdfast.identification.platforms.run import trace_here
from holdfast.identification.platforms.torch_stacks import Placed, require_effective, require_repeated
from holdfast.identification.probe_nets import probe_inputs, probe_net

NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


def on_cuda(**wanted: Any) -> LocalPlatform:
    """A platform of a GPU; its switches can be turned, and looked at, on any build of torch."""
    return LocalPlatform("x", device="cuda", **wanted)


@pytest.mark.parametrize(
    ("wanted", "place", "switch", "value"),
    [
        ({"matmul_precision": "high"}, torch.backends.cuda.matmul, "allow_tf32", True),
        ({"cudnn_tf32": False}, torch.backends.cudnn, "allow_tf32", False),
        ({"cudnn": False}, torch.backends.cudnn, "enabled", False),
        ({"cudnn_benchmark": True}, torch.backends.cudnn, "benchmark", True),
        ({"cudnn_deterministic": True}, torch.backends.cudnn, "deterministic", True),
        ({"reduced_reductions": False}, torch.backends.cuda.matmul, "allow_fp16_reduced_precision_reduction", False),
        ({"reduced_reductions": False}, torch.backends.cuda.matmul, "allow_bf16_reduced_precision_reduction", False),
        ({"fp16_accumulation": True}, torch.backends.cuda.matmul, "allow_fp16_accumulation", True),
    ],
)
def test_switches_of_a_gpu_are_turned_for_the_block_and_put_back(
    wanted: dict[str, Any], place: Any, switch: str, value: bool
) -> None:
    before = getattr(place, switch)
    assert before != value
    with turned(on_cuda(**wanted)):
        assert getattr(place, switch) == value
    assert getattr(place, switch) == before
    with turned(on_cuda()):
        assert getattr(place, switch) == before


def test_a_setting_of_a_gpu_does_not_inherit_the_switches_of_its_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """cuda means what torch does unasked, also in a process that asked for something else."""
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    torch.set_float32_matmul_precision("high")
    try:
        with turned(on_cuda()):
            assert not torch.backends.cudnn.benchmark
            assert not torch.backends.cuda.matmul.allow_tf32
        assert torch.backends.cudnn.benchmark
        assert torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.set_float32_matmul_precision("highest")


class Stuck:
    """A switch that takes any value and keeps its own."""

    @property
    def benchmark(self) -> bool:
        return False

    @benchmark.setter
    def benchmark(self, value: bool) -> None:
        return


def test_a_switch_that_does_not_move_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    stuck = knobs._switch("cudnn_benchmark", Stuck(), "benchmark")
    monkeypatch.setattr(knobs, "_GPU", (stuck,))
    with turned(on_cuda()):  # not asked of it
        pass
    wrong = pytest.raises(Unavailable, match="cudnn_benchmark=True was not taken: it stays False")
    with wrong, turned(on_cuda(cudnn_benchmark=True)):
        pass


def test_a_switch_that_this_torch_lacks_is_a_reason_only_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knobs, "_GPU", (knobs._switch("fp16_accumulation", SimpleNamespace(), "absent"),))
    with turned(on_cuda()):
        pass
    with pytest.raises(Unavailable, match="takes no fp16_accumulation=True"), turned(on_cuda(fp16_accumulation=True)):
        pass


def test_a_variable_that_decides_over_tf32_is_not_overlooked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    with turned(on_cuda()):
        pass
    with pytest.raises(Unavailable, match="NVIDIA_TF32_OVERRIDE=0"), turned(on_cuda(matmul_precision="high")):
        pass
    assert "NVIDIA_TF32_OVERRIDE" not in environment_for(LOCAL_PLATFORMS["cuda-tf32"])
    assert environment_for(LOCAL_PLATFORMS["cuda-deterministic"])["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_autocast_that_switches_itself_off_is_refused() -> None:
    """torch warns that the CPU has no autocast to float64, and goes on without one."""
    with pytest.raises(Unavailable, match="autocast=float64 was not taken"):
        trace_on(LocalPlatform("x", autocast="float64"), probe_net("mlp"), probe_inputs(1))
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize(
    ("name", "found", "taken"),
    [
        ("aten-avx2", "AVX2", True),
        ("aten-avx2", "DEFAULT", False),
        ("aten-avx512", "AVX2", False),
        ("aten-default", "DEFAULT", True),
        ("aten-default", "NO AVX", True),
        ("aten-default", "AVX512", False),
        ("default", "SVE256", True),
    ],
)
def test_an_instruction_set_that_aten_did_not_take_is_refused(
    name: str, found: str, taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a processor of another kind the variable is read and changes nothing."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: found)
    if taken:
        require_effective(LOCAL_PLATFORMS[name])
        return
    with pytest.raises(Unavailable, match=f"was not taken: ATen dispatches to {found.lower()}"):
        require_effective(LOCAL_PLATFORMS[name])


def test_a_backend_of_attention_that_the_cpu_lacks_is_refused() -> None:
    for backend in ("efficient", "cudnn"):
        with pytest.raises(RuntimeError, match="No viable backend"):
            trace_on(LocalPlatform("x", attention=backend), probe_net("transformer"), probe_inputs(1))


def test_a_compiler_that_is_switched_off_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """TORCH_COMPILE_DISABLE leaves the model as it is, and nothing says so."""
    monkeypatch.setattr(torch, "compile", lambda model: model)
    with pytest.raises(Unavailable, match="compiled nothing"):
        trace_on(LOCAL_PLATFORMS["inductor"], probe_net("mlp"), probe_inputs(1))
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")
    assert "TORCHDYNAMO_DISABLE" not in environment_for(LOCAL_PLATFORMS["inductor"])


class Stubborn(nn.Conv2d):
    """Keeps its weights as they are."""

    def _apply(self, fn: Any, recurse: bool = True) -> Stubborn:
        return self


def test_a_layout_that_is_not_taken_is_refused() -> None:
    model = nn.Sequential(Stubborn(3, 4, 3), nn.Flatten())
    with pytest.raises(Unavailable, match=r"channels_last=True was not taken: 0\.weight"):
        trace_on(LOCAL_PLATFORMS["channels-last"], model, probe_inputs(1))


def test_a_batch_that_probes_do_not_fill_is_refused() -> None:
    """It would be the batch of all probes, under another name."""
    with pytest.raises(Unavailable, match="4 probes fill no batch of 8"):
        trace_on(LOCAL_PLATFORMS["batch-8"], probe_net("mlp"), probe_inputs(4))
    found = trace_on(LOCAL_PLATFORMS["batch-8"], probe_net("mlp"), probe_inputs(9))
    assert torch.equal(
        found.outputs[8:], trace_on(LOCAL_PLATFORMS["batch-1"], probe_net("mlp"), probe_inputs(9)).outputs[8:]
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("default", None),
        ("channels-last", {"channels_last": "True"}),
        ("autocast-fp16", {"autocast": "float16"}),
        ("bf16-sdpa-math-reduced", {"dtype": "bfloat16", "attention": "math", "attention_reduction": "True"}),
        ("batch-2", {"batch_size": "2"}),
    ],
)
def test_every_knob_is_a_name_in_the_description(name: str, expected: dict[str, str] | None) -> None:
    found = trace_on(LOCAL_PLATFORMS[name], probe_net("mlp"), probe_inputs(2)).platform
    assert found.get("set") == expected
    assert found["setting"] == name


def test_two_settings_of_the_catalogue_never_set_the_same() -> None:
    seen = [
        (item.runtime, tuple(asked(item).items()), tuple(item.environment.items()), tuple(item.options.items()))
        for item in LOCAL_PLATFORMS.values()
    ]
    assert len(set(seen)) == len(seen)


def test_reduced_sums_of_attention_show_where_there_is_attention() -> None:
    """On a CPU too, math attention in bf16 adds in float32 unless it is told otherwise."""
    names = ("bf16-sdpa-math", "bf16-sdpa-math-reduced")
    full, reduced = (
        trace_on(LOCAL_PLATFORMS[name], probe_net("transformer"), probe_inputs(2)).outputs for name in names
    )
    assert not torch.equal(full, reduced)
    assert torch.allclose(full, reduced, atol=0.3)
    full, reduced = (trace_on(LOCAL_PLATFORMS[name], probe_net("mlp"), probe_inputs(2)).outputs for name in names)
    assert torch.equal(full, reduced)


class Restless(nn.Module):
    """Adds something else every time, as kernels with atomic additions do."""

    calls = 0.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 2.0**-20
        return x.flatten(1)[:, :4] + self.calls


def test_a_gpu_that_does_not_repeat_itself_is_no_platform() -> None:
    model, probes = Restless(), probe_inputs(2)
    with pytest.raises(Unavailable, match="8 of 8 outputs had other bits"):
        require_repeated(predict(model, probes), predict(model, probes))
    steady = predict(probe_net("mlp"), probes)
    require_repeated(steady, steady.clone())


@NO_GPU
def test_a_platform_of_a_gpu_says_that_there_is_none() -> None:
    with pytest.raises(MissingDevice, match="no GPU"):
        trace_on(LOCAL_PLATFORMS["cuda-tf32"], probe_net("mlp"), probe_inputs(1))
    with pytest.raises(MissingDevice, match="no GPU"):
        Placed(probe_net("mlp"), LOCAL_PLATFORMS["cuda"])
    assert obstacle(LOCAL_PLATFORMS["cuda"]) is not None
    assert obstacle(LOCAL_PLATFORMS["default"]) is None


@pytest.fixture
def turing(monkeypatch: pytest.MonkeyPatch) -> None:
    """One GPU before TF32 and bf16, and torch without cuDNN."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "Tesla T4")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (7, 5))
    monkeypatch.setattr(torch.backends.cudnn, "is_available", lambda: False)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("cuda", None),
        ("cuda-fp16", None),
        ("cuda-tf32", "Tesla T4 has no TF32 (compute capability 7.5)"),
        ("cuda-bf16", "Tesla T4 has no bf16 (compute capability 7.5)"),
        ("cuda-autocast-bf16", "Tesla T4 has no bf16 (compute capability 7.5)"),
        ("cuda-cudnn-benchmark", "this torch has no cuDNN"),
        ("cuda-fp16-sdpa-cudnn", "this torch has no cuDNN"),
    ],
)
def test_what_a_gpu_lacks_is_said_though_torch_takes_the_switch(turing: None, name: str, reason: str | None) -> None:
    assert obstacle(LOCAL_PLATFORMS[name]) == reason


def test_a_gpu_that_is_not_there_is_named(turing: None) -> None:
    with pytest.raises(MissingDevice, match=r"there is no device 'cuda:1' here: this process sees only cuda:0$"):
        require_device(LocalPlatform("x", device="cuda:1"))
    for device in ("tpu", "cuda:", "cuda:x", "cuda:-1", "cpu:0"):
        with pytest.raises(InvalidConfig, match="no device"):
            require_device(LocalPlatform("x", device=device))
    for wrong in (
        LocalPlatform("x", device="cuda", int8_engine="x86"),
        LocalPlatform("x", device="cuda", runtime="numpy"),
    ):
        with pytest.raises(InvalidConfig, match="runs on the CPU, not on cuda"):
            trace_on(wrong, probe_net("mlp"), probe_inputs(1))


TWINS = {  # settings of a GPU and what they are on a CPU, where switches of GPUs do nothing
    "cuda": "default", "cuda-tf32-off": "default", "cuda-cudnn-benchmark": "default", "cuda-cudnn-off": "default",
    "cuda-channels-last": "channels-last", "cuda-gradients": "gradients", "cuda-sdpa-math": "sdpa-math",
    "cuda-bf16": "bf16", "cuda-bf16-full-reductions": "bf16", "cuda-bf16-sdpa-flash": "bf16-sdpa-flash",
    "cuda-bf16-sdpa-math-reduced": "bf16-sdpa-math-reduced", "cuda-fp16-accumulation": "fp16",
    "cuda-batch-1": "batch-1", "cuda-torchscript-freeze": "torchscript-freeze",
}  # fmt: skip


@pytest.mark.parametrize("name", TWINS)
def test_the_way_of_a_model_to_a_gpu_and_back_changes_nothing_else(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a CPU in the place of the GPU, each of its settings gives the bits of its twin."""
    monkeypatch.setattr(torch_stacks, "require_device", lambda platform: torch.device("cpu"))
    found = trace_here(LOCAL_PLATFORMS[name], probe_net("transformer"), probe_inputs(2))
    expected = trace_here(LOCAL_PLATFORMS[TWINS[name]], probe_net("transformer"), probe_inputs(2))
    assert torch.equal(found.outputs, expected.outputs)
    assert found.platform["set"] == {"device": "cuda"} | asked(LOCAL_PLATFORMS[name])
    assert found.outputs.device.type == "cpu"


@NO_GPU
@pytest.mark.filterwarnings("ignore:CUDA is not available")
def test_autocast_for_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_stacks, "require_device", lambda platform: torch.device("cpu"))
    with pytest.raises(Unavailable, match="autocast=bfloat16 was not taken"):
        trace_here(LOCAL_PLATFORMS["cuda-autocast-bf16"], probe_net("mlp"), probe_inputs(2))


def test_a_setting_moves_to_a_device_under_the_name_it_has_there() -> None:
    there = moved(LOCAL_PLATFORMS["bf16"], "cuda:1", LOCAL_PLATFORMS)
    assert (there.name, there.device, there.dtype) == ("cuda-bf16", "cuda:1", "bfloat16")
    assert moved(LOCAL_PLATFORMS["default"], "cuda", LOCAL_PLATFORMS) == LOCAL_PLATFORMS["cuda"]
    assert moved(LOCAL_PLATFORMS["cuda-tf32"], "cuda:1", LOCAL_PLATFORMS).name == "cuda-tf32"
    assert moved(LOCAL_PLATFORMS["onednn-off"], "cpu", LOCAL_PLATFORMS) == LOCAL_PLATFORMS["onednn-off"]
    with pytest.raises(InvalidConfig, match="onednn-off is a platform of the CPU, not of cuda"):
        moved(LOCAL_PLATFORMS["onednn-off"], "cuda", LOCAL_PLATFORMS)
    with pytest.raises(InvalidConfig, match="cuda-tf32 is a platform of a GPU, not of cpu"):
        moved(LOCAL_PLATFORMS["cuda-tf32"], "cpu", LOCAL_PLATFORMS)
    with pytest.raises(InvalidConfig, match="no device 'gpu'"):
        moved(LOCAL_PLATFORMS["default"], "gpu", LOCAL_PLATFORMS)


def test_every_setting_of_a_gpu_has_a_name_that_says_so() -> None:
    for name, item in LOCAL_PLATFORMS.items():
        assert name.startswith("cuda") == (item.device == "cuda")


@pytest.mark.slow
def test_torch_compile_is_another_platform_or_the_same_but_was_compiled() -> None:
    found = trace_on(LOCAL_PLATFORMS["inductor"], probe_net("mlp"), probe_inputs(2), fresh=True)
    assert found.platform["set"] == {"compiler": "inductor"}
    assert torch.allclose(found.outputs, trace_on(LOCAL_PLATFORMS["fp64"], probe_net("mlp"), probe_inputs(2)).outputs)


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(
    "name", [name for name, item in LOCAL_PLATFORMS.items() if item.device == "cuda" and not item.slow]
)
def test_a_setting_of_a_gpu_computes_the_same_net_or_says_why_not(name: str) -> None:
    platform, net = LOCAL_PLATFORMS[name], probe_net("transformer")
    probes = probe_inputs(platform.batch_size if platform.batch_size in (8, 16) else 4)
    found = traces_in_own_process(platform, [Case("net", net, probes)])["net"]
    if not isinstance(found, Trace):
        pytest.skip(f"this GPU does not run it: {found}")
    loose = platform.dtype in ("bfloat16", "float16") or platform.autocast
    expected = trace_on(LOCAL_PLATFORMS["fp64"], net, probes).outputs
    assert torch.allclose(found.outputs, expected, atol=0.3 if loose else 1e-2)
    assert found.platform["set"]["device"] == "cuda"
    assert found.platform["gpu_stack"]["devices"][0]["name"] == torch.cuda.get_device_name(0)
