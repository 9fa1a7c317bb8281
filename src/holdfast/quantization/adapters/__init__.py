"""Weights that other tools packed, read as codes and parameters, written back bit for bit, and open to faults in place.

GPTQ, AWQ, compressed-tensors and NF4 in safetensors, and GGUF; :func:`open_packed` is the door. The tensors of torchao,
which live in memory, come in and out through :func:`read_torchao` and :func:`write_torchao`.
"""

from holdfast.quantization.adapters.attach import load_packed
from holdfast.quantization.adapters.ggml import ggml
from holdfast.quantization.adapters.gptq import awq, compressed_tensors, gptq
from holdfast.quantization.adapters.injecting import inject_packed
from holdfast.quantization.adapters.layout import Layout, floating
from holdfast.quantization.adapters.nf4 import nf4
from holdfast.quantization.adapters.packed import PackedFile, is_packed, open_packed
from holdfast.quantization.adapters.packed_tensor import PackedTensor, Place
from holdfast.quantization.adapters.torchao_tensors import read_torchao, torchao_layout, torchao_memory, write_torchao
from holdfast.quantization.adapters.writing import write_packed

__all__ = [
    "Layout",
    "PackedFile",
    "PackedTensor",
    "Place",
    "awq",
    "compressed_tensors",
    "floating",
    "ggml",
    "gptq",
    "inject_packed",
    "is_packed",
    "load_packed",
    "nf4",
    "open_packed",
    "read_torchao",
    "torchao_layout",
    "torchao_memory",
    "write_packed",
    "write_torchao",
]
