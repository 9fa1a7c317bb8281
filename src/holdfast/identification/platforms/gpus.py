"""The settings of a GPU by name, each ``cuda-`` and the knob that differs from what torch does there unasked.

Unasked, torch multiplies float32 matrices in float32 and lets cuDNN's convolutions round to TF32; partial sums of fp16
and bf16 products may be added in that format; cuDNN takes the algorithm that it expects to be fastest.
"""

from __future__ import annotations

from typing import Any

from holdfast.identification.platforms.setting import LocalPlatform

_WORKSPACE = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}  # without it torch refuses cuBLAS as not deterministic


def _gpu(name: str, **knobs: Any) -> LocalPlatform:
    return LocalPlatform(f"cuda-{name}", device="cuda", **knobs)


def _half(name: str, dtype: str) -> tuple[LocalPlatform, ...]:
    """Return what the two formats of 16 bits have in common."""
    backends = ("flash", "efficient", "cudnn", "math")
    return (
        _gpu(name, dtype=dtype),
        _gpu(f"{name}-batch-1", dtype=dtype, batch_size=1),
        _gpu(f"{name}-channels-last", dtype=dtype, channels_last=True),
        _gpu(f"{name}-full-reductions", dtype=dtype, reduced_reductions=False),
        *(_gpu(f"{name}-sdpa-{backend}", dtype=dtype, attention=backend) for backend in backends),
        _gpu(f"{name}-sdpa-math-reduced", dtype=dtype, attention="math", attention_reduction=True),
        _gpu(f"autocast-{name}", autocast=dtype),
        _gpu(f"autocast-{name}-channels-last", autocast=dtype, channels_last=True),
    )


ON_GPU = (
    LocalPlatform("cuda", device="cuda"),
    *(_gpu(f"batch-{size}", batch_size=size) for size in (1, 2, 3, 8, 16)),
    _gpu("channels-last", channels_last=True),
    _gpu("tf32", matmul_precision="high"),
    _gpu("tf32-batch-1", matmul_precision="high", batch_size=1),
    _gpu("tf32-channels-last", matmul_precision="high", channels_last=True),
    _gpu("tf32-off", cudnn_tf32=False),
    _gpu("sdpa-math", attention="math"),
    _gpu("sdpa-efficient", attention="efficient"),
    _gpu("sdpa-flash", attention="flash"),
    _gpu("sdpa-cudnn", attention="cudnn"),
    _gpu("cudnn-off", cudnn=False),
    _gpu("cudnn-benchmark", cudnn_benchmark=True),
    _gpu("cudnn-deterministic", cudnn_deterministic=True),
    _gpu("deterministic", deterministic=True, environment=_WORKSPACE),
    _gpu("cublaslt", blas="cublaslt"),
    _gpu("gradients", gradients=True),
    _gpu("fp64", dtype="float64"),
    *_half("bf16", "bfloat16"),
    *_half("fp16", "float16"),
    _gpu("fp16-accumulation", dtype="float16", fp16_accumulation=True),
    _gpu("torchscript-freeze", compiler="freeze"),
    _gpu("inductor", compiler="inductor", slow=True),
    _gpu("inductor-tf32", compiler="inductor", matmul_precision="high", slow=True),
)
