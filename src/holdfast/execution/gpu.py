"""What decides the bits of a GPU, as far as software can see it: chips, versions of its libraries, modes and knobs.

A GPU's sums depend on its number of multiprocessors, on the versions of cuBLAS and cuDNN, which choose kernels by
shape, and on switches such as TF32 (docs/platforms.md). All of them are read from the libraries that this process has
loaded, not from the packages that are installed; what cannot be read is ``unknown``.
"""

from __future__ import annotations

import ctypes
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

UNKNOWN = "unknown"
# read at start-up by torch or by NVIDIA's libraries, and able to change which kernels run
GPU_KNOBS = (
    "CUBLASLT_WORKSPACE_SIZE",
    "CUBLAS_WORKSPACE_CONFIG",
    "NVIDIA_TF32_OVERRIDE",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
    "TORCH_BLAS_PREFER_CUBLASLT",
    "TORCH_CUDNN_V8_API_DISABLED",
)
_MAPS = Path("/proc/self/maps")
_DRIVERS = (Path("/proc/driver/nvidia/version"), Path("/sys/module/amdgpu/version"))
_VERSION = re.compile(r"\b\d+\.\d+(?:\.\d+)*\b")
_MATMUL, _CUDNN, _CUDA = torch.backends.cuda.matmul, torch.backends.cudnn, torch.backends.cuda


@dataclass(frozen=True)
class GpuStack:
    """The GPUs that this process sees, in order, and what computes on them.

    Attributes:
        devices: name, compute capability and number of multiprocessors of each.
        versions: driver, CUDA (or ROCm) that torch was built with, cuBLAS, cuBLASLt and cuDNN as loaded.
        modes: switches that torch has for GPUs, as they are set now.
    """

    devices: tuple[dict[str, str], ...]
    versions: dict[str, str]
    modes: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {"devices": list(self.devices), "versions": dict(self.versions), "modes": dict(self.modes)}


def describe_gpu() -> GpuStack | None:
    """Describe the GPUs of this process as they are set now; None where it has none."""
    if not torch.cuda.is_available():
        return None
    return GpuStack(tuple(map(gpu_device, range(torch.cuda.device_count()))), gpu_versions(), gpu_modes())


def gpu_device(index: int) -> dict[str, str]:
    """Return name, compute capability and number of multiprocessors of the GPU of this ``index``."""
    found = torch.cuda.get_device_properties(index)
    return {
        "name": str(found.name),
        "capability": f"{found.major}.{found.minor}",
        "multiprocessors": str(found.multi_processor_count),
    }


def gpu_versions() -> dict[str, str]:
    """Return versions by component: a driver or library of another version may choose other kernels."""
    cudnn = _CUDNN.version()
    return {
        "driver": driver_version(),
        "cuda": torch.version.cuda or UNKNOWN,
        "cublas": _property("cublas"),
        "cublaslt": _property("cublasLt"),
        "cudnn": "absent" if cudnn is None else str(cudnn),
    } | ({"rocm": torch.version.hip} if torch.version.hip else {})


def gpu_modes() -> dict[str, str]:
    """Return every switch for GPUs by name; one that this torch lacks is ``absent``."""
    return {name: _read(*place) for name, place in _MODES.items()}


def gpu_knobs() -> dict[str, str]:
    """Return the variables of :data:`GPU_KNOBS` that are set."""
    return {name: os.environ[name] for name in GPU_KNOBS if name in os.environ}


_MODES: dict[str, tuple[object, str]] = {  # where the switch is, and what it or its getter is called there
    "tf32_matmul": (_MATMUL, "allow_tf32"),
    "tf32_cudnn": (_CUDNN, "allow_tf32"),
    "fp16_reduction": (_MATMUL, "allow_fp16_reduced_precision_reduction"),
    "bf16_reduction": (_MATMUL, "allow_bf16_reduced_precision_reduction"),
    "fp16_accumulation": (_MATMUL, "allow_fp16_accumulation"),
    "blas": (_CUDA, "preferred_blas_library"),
    "cudnn": (_CUDNN, "enabled"),
    "cudnn_benchmark": (_CUDNN, "benchmark"),
    "cudnn_deterministic": (_CUDNN, "deterministic"),
    "sdpa_flash": (_CUDA, "flash_sdp_enabled"),
    "sdpa_efficient": (_CUDA, "mem_efficient_sdp_enabled"),
    "sdpa_cudnn": (_CUDA, "cudnn_sdp_enabled"),
    "sdpa_math": (_CUDA, "math_sdp_enabled"),
    "sdpa_math_reduction": (_CUDA, "fp16_bf16_reduction_math_sdp_allowed"),
}


def _read(place: object, name: str) -> str:
    try:
        found = getattr(place, name)
        value = found() if callable(found) else found
    except (AttributeError, RuntimeError):  # another version of torch; or legacy and new switches that contradict
        return "absent"
    return str(getattr(value, "name", value)).lower() if name == "preferred_blas_library" else str(value)


def driver_version() -> str:
    """Return the version of the kernel's GPU driver."""
    for place in _DRIVERS:
        try:
            found = _VERSION.search(place.read_text().partition("\n")[0])
        except OSError:
            continue
        if found is not None:
            return found.group()
    return UNKNOWN


def _property(library: str) -> str:
    """Return major.minor.patch of ``cublas`` or ``cublasLt`` as this process has loaded it."""
    loaded = _loaded(f"lib{library}.so")
    if loaded is None:
        return UNKNOWN
    parts = []
    for which in range(3):  # MAJOR_VERSION, MINOR_VERSION, PATCH_LEVEL of libraryPropertyType
        value = ctypes.c_int(-1)
        if getattr(loaded, f"{library}GetProperty")(which, ctypes.byref(value)):
            return UNKNOWN
        parts.append(str(value.value))
    return ".".join(parts)


def _loaded(stem: str) -> Any:
    """Return a library that is in this process already, or None: loading one would be to ask another."""
    try:
        lines = _MAPS.read_text().splitlines()
    except OSError:
        return None
    paths = (line.split(maxsplit=5)[5] for line in lines if len(line.split(maxsplit=5)) == 6)
    found = next((path for path in paths if Path(path).name.startswith(stem)), None)
    return None if found is None else ctypes.CDLL(found)
