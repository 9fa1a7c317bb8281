"""The descriptor of a GPU, read from stand-ins of torch.cuda, and that of a machine without one, byte for byte."""

from __future__ import annotations

import ctypes
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from holdfast.evidence import canonical
from holdfast.execution import describe_platform, gpu
from holdfast.execution.platform import Platform

BEFORE = {
    "machine": "x86_64",
    "cpu": "AMD EPYC",
    "features": ("avx", "avx2"),
    "capability": "AVX512",
    "torch": "2.13.0+cpu",
    "numpy": "2.4.6",
    "python": "3.11.7",
    "libraries": {"mkl": True, "onednn": True},
    "threads": 1,
    "modes": {"onednn": "True", "matmul_precision": "highest", "deterministic": "False", "default_dtype": "float32"},
    "knobs": {"OMP_NUM_THREADS": "1"},
    "gpu": (),
}
H200 = SimpleNamespace(name="NVIDIA H200", major=9, minor=0, multi_processor_count=132)
L4 = SimpleNamespace(name="NVIDIA L4", major=8, minor=9, multi_processor_count=58)


class Library:
    """A loaded cuBLAS as ctypes shows it."""

    def __init__(self, *version: int, status: int = 0) -> None:
        self.version, self.status = version, status

    def cublasGetProperty(self, which: int, value: Any) -> int:
        value._obj.value = self.version[which]
        return self.status

    cublasLtGetProperty = cublasGetProperty


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """A machine with an H200 and an L4 under driver 570.133.20."""
    driver = tmp_path / "version"
    driver.write_text("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.133.20  Release\nGCC 12.2.0\n")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", [H200, L4].__getitem__)
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91002)
    monkeypatch.setattr(gpu, "_DRIVERS", (tmp_path / "absent", driver))
    monkeypatch.setattr(gpu, "_loaded", lambda stem: Library(12, 8, 4) if stem == "libcublas.so" else None)
    return monkeypatch


def test_the_description_of_a_machine_without_a_gpu_is_what_it_always_was() -> None:
    """The digest was computed by the version that knew no GPU but its name."""
    platform = Platform(**BEFORE)  # type: ignore[arg-type]
    assert platform.digest == "916be0d6e27a57a6f981eaafdce6f2f842f068bf48062ec936041373480b19f7"
    assert set(platform.to_json()) == set(BEFORE)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_switches_and_variables_of_gpus_are_nothing_to_a_machine_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    before = describe_platform()
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    assert describe_platform().digest == before.digest
    assert set(before.to_json()) == set(BEFORE)


def test_chips_versions_and_modes_are_read(two_gpus: pytest.MonkeyPatch) -> None:
    found = describe_platform()
    assert found.gpu == ("NVIDIA H200", "NVIDIA L4")
    value = found.to_json()["gpu_stack"]
    assert value["devices"] == [
        {"name": "NVIDIA H200", "capability": "9.0", "multiprocessors": "132"},
        {"name": "NVIDIA L4", "capability": "8.9", "multiprocessors": "58"},
    ]
    assert value["versions"] == {
        "driver": "570.133.20", "cuda": "12.8", "cublas": "12.8.4", "cublaslt": "unknown", "cudnn": "91002",
    }  # fmt: skip
    assert value["modes"]["tf32_matmul"] == "False"
    assert value["modes"]["tf32_cudnn"] == "True"
    assert value["modes"]["blas"] == "cublas"
    assert all(item in ("True", "False") for name, item in value["modes"].items() if name != "blas")
    assert canonical.loads(canonical.dumps(found.to_json()), what="platform") == found.to_json()


@pytest.mark.parametrize(
    ("module", "switch", "value", "mode"),
    [
        (torch.backends.cuda.matmul, "allow_tf32", True, "tf32_matmul"),
        (torch.backends.cudnn, "allow_tf32", False, "tf32_cudnn"),
        (torch.backends.cudnn, "benchmark", True, "cudnn_benchmark"),
        (torch.backends.cudnn, "deterministic", True, "cudnn_deterministic"),
        (torch.backends.cuda.matmul, "allow_fp16_reduced_precision_reduction", False, "fp16_reduction"),
        (torch.backends.cuda.matmul, "allow_bf16_reduced_precision_reduction", False, "bf16_reduction"),
    ],
)
def test_each_switch_of_a_gpu_is_another_platform(
    two_gpus: pytest.MonkeyPatch, module: Any, switch: str, value: bool, mode: str
) -> None:
    before, was = describe_platform(), getattr(module, switch)
    try:
        setattr(module, switch, value)
        after = describe_platform()
    finally:
        setattr(module, switch, was)
    assert after.digest != before.digest
    assert after.to_json()["gpu_stack"]["modes"][mode] == str(value)
    assert describe_platform() == before


def test_attention_backends_and_variables_are_part_of_it(two_gpus: pytest.MonkeyPatch) -> None:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel(SDPBackend.MATH):
        modes = describe_platform().to_json()["gpu_stack"]["modes"]
    assert [modes[f"sdpa_{name}"] for name in ("math", "flash", "efficient", "cudnn")] == ["True"] + ["False"] * 3
    two_gpus.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    assert describe_platform().knobs["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_fewer_multiprocessors_or_another_driver_are_another_platform(
    two_gpus: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen = {describe_platform().digest}
    half = SimpleNamespace(**vars(H200) | {"multi_processor_count": 66})
    two_gpus.setattr(torch.cuda, "get_device_properties", [half, L4].__getitem__)
    seen.add(describe_platform().digest)
    two_gpus.setattr(gpu, "_DRIVERS", ())
    seen.add(describe_platform().digest)
    assert len(seen) == 3
    assert gpu.driver_version() == "unknown"


@pytest.mark.parametrize("loaded", [None, Library(12, 8, 4, status=7)])
def test_a_library_that_tells_no_version_is_unknown(two_gpus: pytest.MonkeyPatch, loaded: Library | None) -> None:
    two_gpus.setattr(gpu, "_loaded", lambda stem: loaded)
    assert gpu.gpu_versions()["cublas"] == "unknown"


def test_a_switch_that_this_torch_lacks_is_absent(two_gpus: pytest.MonkeyPatch) -> None:
    two_gpus.delattr(torch.backends.cuda, "cudnn_sdp_enabled")
    assert gpu.gpu_modes()["sdpa_cudnn"] == "absent"


def test_only_libraries_of_this_process_are_asked() -> None:
    libc = gpu._loaded("libc.so")
    assert isinstance(libc, ctypes.CDLL)
    assert libc.getpid() > 0
    assert gpu._loaded("libholdfast-never.so") is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_real_gpu_tells_everything() -> None:
    torch.ones(8, 8, device="cuda") @ torch.ones(8, 8, device="cuda")  # cuBLAS is loaded by its first use
    value = describe_platform().to_json()["gpu_stack"]
    assert value["devices"][0]["name"] == torch.cuda.get_device_name(0)
    assert int(value["devices"][0]["multiprocessors"]) > 0
    assert "unknown" not in value["versions"].values()
    assert "absent" not in value["modes"].values()
