"""The settings by name: every knob that is known to change which kernels run, or that was found not to.

Those that change nothing on one machine do on another (``MKL_CBWR=AVX2`` on processors of Intel), so all stay in.
"""

from __future__ import annotations

from holdfast.identification.platforms.gpus import ON_GPU
from holdfast.identification.platforms.setting import LocalPlatform

_ONE = {"OPENBLAS_NUM_THREADS": "1"}


def _environment(name: str, **variables: str) -> LocalPlatform:
    return LocalPlatform(name, environment=variables)


def _numpy(
    name: str, *, environment: dict[str, str] | None = None, batch_size: int = 32, contraction: str = "blas"
) -> LocalPlatform:
    variables = _ONE | (environment or {})
    options = {"contraction": contraction}
    return LocalPlatform(
        name, runtime="numpy", environment=variables, batch_size=batch_size, options=options,
        threads=int(variables["OPENBLAS_NUM_THREADS"]),
    )  # fmt: skip


def _ort(name: str, level: str = "all", **settings: int) -> LocalPlatform:
    return LocalPlatform(name, runtime="onnxruntime", options={"optimisation": level}, **settings)  # type: ignore[arg-type]


_BASE = (
    LocalPlatform("default"),
    LocalPlatform("batch-1", batch_size=1),
    LocalPlatform("batch-2", batch_size=2),
    LocalPlatform("batch-3", batch_size=3),
    LocalPlatform("batch-8", batch_size=8),
    LocalPlatform("batch-16", batch_size=16),
    LocalPlatform("channels-last", channels_last=True),
    LocalPlatform("onednn-off", onednn=False),
    LocalPlatform("nnpack-off", nnpack=False),
    LocalPlatform("onednn-nnpack-off", onednn=False, nnpack=False),
    LocalPlatform("matmul-high", matmul_precision="high"),
    LocalPlatform("matmul-medium", matmul_precision="medium"),
    LocalPlatform("threads-2", threads=2),
    LocalPlatform("threads-3", threads=3),
    LocalPlatform("threads-4", threads=4),
    LocalPlatform("threads-8", threads=8),
    LocalPlatform("flush-denormal", flush_denormal=True),
    LocalPlatform("gradients", gradients=True),
    LocalPlatform("sdpa-math", attention="math"),
    LocalPlatform("sdpa-flash", attention="flash"),
    LocalPlatform("deterministic", deterministic=True),
)
_FORMATS = (
    LocalPlatform("bf16", dtype="bfloat16"),
    LocalPlatform("bf16-batch-1", dtype="bfloat16", batch_size=1),
    LocalPlatform("bf16-onednn-off", dtype="bfloat16", onednn=False),
    LocalPlatform("bf16-onednn-avx2", dtype="bfloat16", environment={"ONEDNN_MAX_CPU_ISA": "AVX2"}),
    LocalPlatform("bf16-onednn-avx512", dtype="bfloat16", environment={"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}),
    LocalPlatform("bf16-channels-last", dtype="bfloat16", channels_last=True),
    LocalPlatform("bf16-sdpa-flash", dtype="bfloat16", attention="flash"),
    LocalPlatform("bf16-sdpa-math", dtype="bfloat16", attention="math"),
    LocalPlatform("bf16-sdpa-math-reduced", dtype="bfloat16", attention="math", attention_reduction=True),
    LocalPlatform("fp16", dtype="float16"),
    LocalPlatform("fp16-sdpa-math", dtype="float16", attention="math"),
    LocalPlatform("fp16-sdpa-math-reduced", dtype="float16", attention="math", attention_reduction=True),
    LocalPlatform("fp16-onednn-avx2", dtype="float16", environment={"ONEDNN_MAX_CPU_ISA": "AVX2"}),
    LocalPlatform("fp64", dtype="float64"),
    LocalPlatform("autocast-bf16", autocast="bfloat16"),
    LocalPlatform("autocast-bf16-channels-last", autocast="bfloat16", channels_last=True),
    LocalPlatform("autocast-fp16", autocast="float16"),
    LocalPlatform("int8-fbgemm", int8_engine="fbgemm"),
    LocalPlatform("int8-x86", int8_engine="x86"),
    LocalPlatform("int8-qnnpack", int8_engine="qnnpack"),
    LocalPlatform("int8-onednn", int8_engine="onednn"),
)
_COMPILED = (
    LocalPlatform("torchscript-freeze", compiler="freeze"),
    LocalPlatform("torchscript-optimized", compiler="optimize-for-inference"),
    LocalPlatform("inductor", compiler="inductor", slow=True),
)
_LEVELS = (
    _environment("aten-default", ATEN_CPU_CAPABILITY="default"),
    _environment("aten-avx2", ATEN_CPU_CAPABILITY="avx2"),
    _environment("aten-avx512", ATEN_CPU_CAPABILITY="avx512"),
    _environment("onednn-sse41", ONEDNN_MAX_CPU_ISA="SSE41"),
    _environment("onednn-avx", ONEDNN_MAX_CPU_ISA="AVX"),
    _environment("onednn-avx2", ONEDNN_MAX_CPU_ISA="AVX2"),
    _environment("onednn-avx512", ONEDNN_MAX_CPU_ISA="AVX512_CORE"),
    _environment("onednn-fpmath-bf16", ONEDNN_DEFAULT_FPMATH_MODE="BF16"),
    _environment("mkl-compatible", MKL_CBWR="COMPATIBLE"),
    _environment("mkl-sse42", MKL_CBWR="SSE4_2"),
    _environment("mkl-instructions-avx2", MKL_ENABLE_INSTRUCTIONS="AVX2"),
    _environment("mkl-avx2", MKL_CBWR="AVX2"),
    _environment("mkl-avx512", MKL_CBWR="AVX512"),
    _environment("aten-default-onednn-sse41", ATEN_CPU_CAPABILITY="default", ONEDNN_MAX_CPU_ISA="SSE41"),
    _environment("aten-avx2-onednn-avx2", ATEN_CPU_CAPABILITY="avx2", ONEDNN_MAX_CPU_ISA="AVX2"),
    _environment("aten-avx2-mkl-compatible", ATEN_CPU_CAPABILITY="avx2", MKL_CBWR="COMPATIBLE"),
)
_NUMPY = (
    _numpy("numpy"),
    _numpy("numpy-haswell", environment={"OPENBLAS_CORETYPE": "Haswell"}),
    _numpy("numpy-zen", environment={"OPENBLAS_CORETYPE": "Zen"}),
    _numpy("numpy-skylakex", environment={"OPENBLAS_CORETYPE": "SkylakeX"}),
    _numpy("numpy-cooperlake", environment={"OPENBLAS_CORETYPE": "Cooperlake"}),
    _numpy("numpy-sandybridge", environment={"OPENBLAS_CORETYPE": "Sandybridge"}),
    _numpy("numpy-nehalem", environment={"OPENBLAS_CORETYPE": "Nehalem"}),
    _numpy("numpy-barcelona", environment={"OPENBLAS_CORETYPE": "Barcelona"}),
    _numpy("numpy-prescott", environment={"OPENBLAS_CORETYPE": "Prescott"}),
    _numpy("numpy-threads-2", environment={"OPENBLAS_NUM_THREADS": "2"}),
    _numpy("numpy-haswell-threads-2", environment={"OPENBLAS_CORETYPE": "Haswell", "OPENBLAS_NUM_THREADS": "2"}),
    _numpy("numpy-batch-1", batch_size=1),
    _numpy("numpy-haswell-batch-1", environment={"OPENBLAS_CORETYPE": "Haswell"}, batch_size=1),
    _numpy("numpy-sandybridge-batch-1", environment={"OPENBLAS_CORETYPE": "Sandybridge"}, batch_size=1),
    _numpy("numpy-nehalem-batch-1", environment={"OPENBLAS_CORETYPE": "Nehalem"}, batch_size=1),
    _numpy("numpy-simd-avx2", environment={"NPY_DISABLE_CPU_FEATURES": "avx2"}),
    _numpy("numpy-simd-baseline", environment={"NPY_DISABLE_CPU_FEATURES": "baseline"}),
    _numpy("numpy-einsum", contraction="einsum"),
)
_OTHERS = (
    _ort("ort"),
    _ort("ort-extended", "extended"),
    _ort("ort-basic", "basic"),
    _ort("ort-unoptimised", "disable"),
    _ort("ort-batch-1", batch_size=1),
    _ort("ort-threads-2", threads=2),
    _ort("ort-basic-threads-2", "basic", threads=2),
    LocalPlatform("openvino", runtime="openvino", options={"precision": "default"}),
    LocalPlatform("openvino-fp32", runtime="openvino", options={"precision": "f32"}),
    LocalPlatform("openvino-bf16", runtime="openvino", options={"precision": "bf16"}),
    LocalPlatform("openvino-batch-1", runtime="openvino", options={"precision": "f32"}, batch_size=1),
)

LISTED_BY = "holdfast platforms show"  # what to type to see all of them
LOCAL_PLATFORMS = {item.name: item for item in (*_BASE, *_FORMATS, *_COMPILED, *_LEVELS, *_NUMPY, *_OTHERS, *ON_GPU)}
