"""The platform a computation ran on, as far as software can see it."""

from __future__ import annotations

import os
import platform as host
import sys
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from holdfast.evidence import canonical
from holdfast.evidence.digest import digest_bytes
from holdfast.execution.gpu import GpuStack, describe_gpu, gpu_knobs

# settings that are read at start-up and change which kernels run
KNOBS = (
    "ATEN_CPU_CAPABILITY",
    "DNNL_MAX_CPU_ISA",
    "MKL_CBWR",
    "MKL_ENABLE_INSTRUCTIONS",
    "MKL_NUM_THREADS",
    "OMP_NUM_THREADS",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "ONEDNN_MAX_CPU_ISA",
    "OPENBLAS_CORETYPE",
)
_FLAGS = (
    "avx",
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_int8",
    "amx_bf16",
    "fma",
    "sse4_2",
    "asimd",
    "sve",
)


@dataclass(frozen=True)
class Platform:
    """Hardware, libraries and modes, in values that canonical JSON can hold."""

    machine: str
    cpu: str
    features: tuple[str, ...]
    capability: str  # instruction set level that ATen dispatches to
    torch: str
    numpy: str
    python: str
    libraries: dict[str, bool]
    threads: int
    modes: dict[str, str]
    knobs: dict[str, str]
    gpu: tuple[str, ...]
    gpu_stack: GpuStack | None = None  # what computes on them; without a GPU it is no part of the JSON form

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form; that of a machine without a GPU is what it was before GPUs were described."""
        value = {key: list(item) if isinstance(item, tuple) else item for key, item in asdict(self).items()}
        del value["gpu_stack"]
        return value if self.gpu_stack is None else value | {"gpu_stack": self.gpu_stack.to_json()}

    @property
    def digest(self) -> str:
        """BLAKE3 (hex) of the canonical form."""
        return digest_bytes(canonical.dumps(self.to_json()))


def describe_platform() -> Platform:
    """Describe the platform of this process as it is set now."""
    model, flags = _cpu()
    stack = describe_gpu()
    return Platform(
        machine=host.machine(),
        cpu=model,
        features=flags,
        capability=torch.backends.cpu.get_cpu_capability(),
        torch=torch.__version__,
        numpy=np.__version__,
        python=".".join(map(str, sys.version_info[:3])),
        libraries=_libraries(),
        threads=torch.get_num_threads(),
        modes=_modes(),
        knobs={name: os.environ[name] for name in KNOBS if name in os.environ} | (gpu_knobs() if stack else {}),
        gpu=tuple(device["name"] for device in stack.devices) if stack else (),
        gpu_stack=stack,
    )


def _libraries() -> dict[str, bool]:
    return {
        "mkl": torch.backends.mkl.is_available(),
        "onednn": torch.backends.mkldnn.is_available(),
    }


def _modes() -> dict[str, str]:
    return {
        "onednn": str(torch.backends.mkldnn.enabled),
        "matmul_precision": torch.get_float32_matmul_precision(),
        "deterministic": str(torch.are_deterministic_algorithms_enabled()),
        "default_dtype": str(torch.get_default_dtype()).removeprefix("torch."),
    }


@cache
def _cpu() -> tuple[str, tuple[str, ...]]:
    """Return the processor's name and the instruction sets that change results."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return host.processor() or "unknown", ()
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    present = set(fields.get("flags", fields.get("Features", "")).split())
    return fields.get("model name", "unknown"), tuple(name for name in _FLAGS if name in present)
