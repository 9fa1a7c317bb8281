"""Containers of tensors (safetensors, GGUF, NPZ): their indices, read strictly and without any framework."""

from holdfast.evidence.containers.slot import Slot

__all__ = ["Slot"]
