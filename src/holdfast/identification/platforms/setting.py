"""One way to run a model on this machine, as data that travels to a process of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class LocalPlatform:
    """One way to run a model here.

    Attributes:
        name: by which it is asked for and reported.
        batch_size: samples computed at a time.
        dtype: of weights and activations; outputs are float32 whatever it is.
        channels_last: memory layout of images.
        onednn: whether torch may use oneDNN.
        environment: variables that are read at start-up, so they take a process of its own.
        runtime: ``torch``, ``numpy``, ``onnxruntime`` or ``openvino``.
        threads: threads inside one operation.
        nnpack: whether torch may use NNPACK.
        matmul_precision: of ``torch.set_float32_matmul_precision``.
        autocast: dtype of an autocast region around the model.
        int8_engine: engine of dynamically quantised linear layers.
        attention: backend of scaled dot-product attention: ``math``, ``flash``, or on a GPU ``efficient``, ``cudnn``.
        compiler: ``freeze``, ``optimize-for-inference`` or ``inductor``.
        flush_denormal: whether numbers below the normal ones count as zero.
        gradients: whether the forward pass is recorded for a backward one.
        options: settings of a runtime other than torch, see its module.
        slow: takes minutes, so a sweep runs it only when it is asked for by name.
        device: ``cpu``, ``cuda``, or ``cuda:1`` for the second GPU.
        deterministic: whether torch may use only algorithms that it calls deterministic.
        attention_reduction: whether ``math`` attention in fp16 and bf16 adds in that format and not in float32.
        cudnn: whether a GPU's convolutions may use cuDNN; this and the next concern GPUs only.
        cudnn_tf32: whether cuDNN may round float32 to TF32, as torch lets it; products of matrices may where
            ``matmul_precision`` is not ``highest``.
        cudnn_benchmark: whether cuDNN times its algorithms and takes the fastest.
        cudnn_deterministic: whether cuDNN may use only deterministic algorithms.
        reduced_reductions: whether cuBLAS may add partial sums of fp16 and bf16 products in that format.
        fp16_accumulation: whether cuBLAS may accumulate fp16 products in fp16.
        blas: ``cublas`` or ``cublaslt``; what torch prefers, if not said.
    """

    name: str
    batch_size: int = 32
    dtype: str = "float32"
    channels_last: bool = False
    onednn: bool = True
    environment: dict[str, str] = field(default_factory=dict)
    runtime: str = "torch"
    threads: int = 1
    nnpack: bool = True
    matmul_precision: str = "highest"
    autocast: str | None = None
    int8_engine: str | None = None
    attention: str | None = None
    compiler: str | None = None
    flush_denormal: bool = False
    gradients: bool = False
    options: dict[str, str] = field(default_factory=dict)
    slow: bool = False
    device: str = "cpu"
    deterministic: bool = False
    attention_reduction: bool = False
    cudnn: bool = True
    cudnn_tf32: bool = True
    cudnn_benchmark: bool = False
    cudnn_deterministic: bool = False
    reduced_reductions: bool = True
    fp16_accumulation: bool = False
    blas: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> LocalPlatform:
        """Read the JSON form."""
        return cls(**value)
