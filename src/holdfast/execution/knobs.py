"""What decides how a GPU rounds, as a campaign found it set: the plan says so, and a store refuses other settings."""

from __future__ import annotations

import logging
import os
from typing import Any

import torch

_log = logging.getLogger(__name__)
_KERNELS = {"flash": "flash", "efficient": "mem_efficient", "math": "math", "cudnn": "cudnn"}  # ours -> torch's


def knobs_of(device: torch.device) -> dict[str, str]:
    """Return name and settings of a CUDA device; nothing for a CPU, whose settings the platform's digest holds.

    Settings that let two passes round differently are logged: the campaign goes on, since it proves its golden answers,
    but only an interruption later may show that they do not repeat.
    """
    if device.type != "cuda":
        return {}
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    found = {
        "gpu": torch.cuda.get_device_name(device),
        "capability": ".".join(map(str, torch.cuda.get_device_capability(device))),
        "cuda": str(torch.version.cuda),
        "cudnn": str(cudnn.version()),
        "tf32_matmul": str(matmul.allow_tf32),
        "tf32_cudnn": str(cudnn.allow_tf32),
        "fp16_reduced": str(matmul.allow_fp16_reduced_precision_reduction),
        "bf16_reduced": str(matmul.allow_bf16_reduced_precision_reduction),
        "deterministic": str(torch.are_deterministic_algorithms_enabled()),
        "cudnn_deterministic": str(cudnn.deterministic),
        "cudnn_benchmark": str(cudnn.benchmark),
        "attention": ",".join(_attention()),
        "workspace": os.environ.get("CUBLAS_WORKSPACE_CONFIG", ""),
    }
    if cudnn.benchmark and not cudnn.deterministic:
        _log.warning("cuDNN picks kernels by their time, so that golden bits may differ from run to run")
    return found


def _attention() -> list[str]:
    """Return the kernels that scaled-dot-product attention may choose from."""
    return [kind for kind, name in _KERNELS.items() if getattr(torch.backends.cuda, f"{name}_sdp_enabled")()]


def settings() -> dict[str, object]:
    """Return the settings of this process that decide how a GPU rounds, for :func:`adopt` in another one."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    return {
        "precision": torch.get_float32_matmul_precision(),
        "tf32_cudnn": cudnn.allow_tf32,
        "cudnn_benchmark": cudnn.benchmark,
        "cudnn_deterministic": cudnn.deterministic,
        "fp16_reduced": matmul.allow_fp16_reduced_precision_reduction,
        "bf16_reduced": matmul.allow_bf16_reduced_precision_reduction,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "warn_only": torch.is_deterministic_algorithms_warn_only_enabled(),
        "attention": {kind: getattr(torch.backends.cuda, f"{name}_sdp_enabled")() for kind, name in _KERNELS.items()},
    }


def adopt(found: dict[str, Any]) -> None:
    """Set this process as the one in which :func:`settings` was asked."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    torch.set_float32_matmul_precision(found["precision"])
    cudnn.allow_tf32, cudnn.benchmark = found["tf32_cudnn"], found["cudnn_benchmark"]
    cudnn.deterministic = found["cudnn_deterministic"]
    matmul.allow_fp16_reduced_precision_reduction = found["fp16_reduced"]
    matmul.allow_bf16_reduced_precision_reduction = found["bf16_reduced"]
    torch.use_deterministic_algorithms(found["deterministic"], warn_only=found["warn_only"])
    for kind, enabled in found["attention"].items():
        getattr(torch.backends.cuda, f"enable_{_KERNELS[kind]}_sdp")(enabled)
