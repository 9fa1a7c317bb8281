"""Knobs of a process of torch: turned for one block, read back to see that they were taken, and put back after it.

A knob that does nothing would make two names of one platform. torch ignores some without an error: autocast to a format
that a device lacks switches itself off with a warning, and a compiler that is disabled leaves the model as it is.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from holdfast.errors import Unavailable
from holdfast.identification.platforms.setting import LocalPlatform

ATTENTION = {
    "math": SDPBackend.MATH,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
}
_CUDA, _CUDNN, _MATMUL = torch.backends.cuda, torch.backends.cudnn, torch.backends.cuda.matmul
_NOT_KNOBS = ("name", "environment", "runtime", "options", "slow")  # of a LocalPlatform


@dataclass(frozen=True)
class _Knob:
    """One switch of a process: the field of a platform that sets it, and how it is read and turned."""

    field: str
    get: Callable[[], object]
    put: Callable[[Any], object]


def _switch(field: str, place: object, name: str) -> _Knob:
    return _Knob(field, lambda: getattr(place, name), lambda value: setattr(place, name, value))


_PROCESS = (
    _Knob("threads", torch.get_num_threads, torch.set_num_threads),
    _Knob("matmul_precision", torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    _switch("onednn", torch.backends.mkldnn, "enabled"),
    _Knob("nnpack", torch._C._get_nnpack_enabled, torch.backends.nnpack.set_flags),
    _Knob("deterministic", torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms),
    _Knob("attention_reduction", _CUDA.fp16_bf16_reduction_math_sdp_allowed, _CUDA.allow_fp16_bf16_reduction_math_sdp),
)
_GPU = (
    _switch("cudnn", _CUDNN, "enabled"),
    _switch("cudnn_tf32", _CUDNN, "allow_tf32"),
    _switch("cudnn_benchmark", _CUDNN, "benchmark"),
    _switch("cudnn_deterministic", _CUDNN, "deterministic"),
    _switch("reduced_reductions", _MATMUL, "allow_fp16_reduced_precision_reduction"),
    _switch("reduced_reductions", _MATMUL, "allow_bf16_reduced_precision_reduction"),
    _switch("fp16_accumulation", _MATMUL, "allow_fp16_accumulation"),
    _Knob(
        "blas", lambda: str(getattr(_CUDA.preferred_blas_library(), "name", "")).lower(), _CUDA.preferred_blas_library
    ),
)
_BACKENDS: dict[str, Callable[[], bool]] = {
    "math": _CUDA.math_sdp_enabled,
    "flash": _CUDA.flash_sdp_enabled,
    "efficient": _CUDA.mem_efficient_sdp_enabled,
    "cudnn": _CUDA.cudnn_sdp_enabled,
}


def asked(platform: LocalPlatform) -> dict[str, str]:
    """Return every knob that a platform sets to something else than the default one does, by name."""
    defaults = LocalPlatform("default")
    names = [field.name for field in fields(platform) if field.name not in _NOT_KNOBS]
    return {name: str(getattr(platform, name)) for name in names if getattr(platform, name) != getattr(defaults, name)}


@contextmanager
def turned(platform: LocalPlatform) -> Iterator[None]:
    """Set what torch lets a process set, on a GPU its switches too, and put it back.

    Raises:
        Unavailable: this torch or this device lacks a knob, or it was turned and did not move.
    """
    with ExitStack() as stack:
        for knob in _PROCESS + (() if platform.device == "cpu" else _GPU):
            _turn(stack, knob, getattr(platform, knob.field))
        if platform.device != "cpu":
            _require_tf32(platform)
        if platform.flush_denormal:
            stack.callback(torch.set_flush_denormal, False)
            if not torch.set_flush_denormal(True):
                raise Unavailable("this processor cannot flush denormal numbers")
        if platform.int8_engine is not None:
            _engine(stack, platform.int8_engine)
        if platform.attention is not None:
            stack.enter_context(sdpa_kernel(ATTENTION[platform.attention]))
            left = [name for name, enabled in _BACKENDS.items() if enabled()]
            _require(platform, "attention", left, [platform.attention])
        if platform.autocast is not None:
            _cast(stack, platform)
        yield


def _turn(stack: ExitStack, knob: _Knob, value: object) -> None:
    if value is None:  # whatever torch prefers
        return
    try:
        if (before := knob.get()) == value:
            return
        stack.callback(knob.put, before)
        knob.put(value)
        found = knob.get()
    except (AttributeError, RuntimeError, TypeError) as error:
        if value == getattr(LocalPlatform("default"), knob.field):
            return  # a switch that this torch does not have is off
        raise Unavailable(f"this torch takes no {knob.field}={value}: {error}") from error
    if found != value:
        raise Unavailable(f"{knob.field}={value} was not taken: it stays {found}")


def _require_tf32(platform: LocalPlatform) -> None:
    """Products of matrices on a GPU are rounded to TF32 by the switch for precision, unless a variable decides."""
    wanted = platform.matmul_precision != "highest"
    _require(platform, "matmul_precision", _MATMUL.allow_tf32, wanted)
    if wanted and (value := os.environ.get("NVIDIA_TF32_OVERRIDE")) is not None:
        raise Unavailable(f"TF32 follows NVIDIA_TF32_OVERRIDE={value} in this process", hint="unset it")


def _require(platform: LocalPlatform, field: str, found: object, wanted: object) -> None:
    if found != wanted:
        raise Unavailable(f"{field}={getattr(platform, field)} was not taken: {found} in place of {wanted}")


def _engine(stack: ExitStack, name: str) -> None:
    backend = torch.backends.quantized
    if name not in backend.supported_engines:
        raise Unavailable(f"this torch has no quantised engine {name}", hint=f"it has {backend.supported_engines}")
    before = backend.engine
    stack.callback(setattr, backend, "engine", before)
    backend.engine = name


def _cast(stack: ExitStack, platform: LocalPlatform) -> None:
    """Enter an autocast region, which is left out with a warning where the device has no such format."""
    kind, dtype = platform.device.partition(":")[0], getattr(torch, str(platform.autocast))
    stack.enter_context(torch.autocast(kind, dtype=dtype))
    taken = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    _require(platform, "autocast", taken, dtype)
