"""Signed tensor roots beside the live tensors they speak about, and the bytes of both."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from holdfast.errors import DigestMismatch, UnreadableArtifact
from holdfast.evidence.model_manifest import TensorEntry

if TYPE_CHECKING:
    from torch import Tensor, nn

SLICE = 4 << 20  # bytes hashed between two looks at the budget; long enough for BLAKE3's full speed
_DTYPES = {
    "float64": "f64", "float32": "f32", "float16": "f16", "bfloat16": "bf16", "float8_e4m3fn": "f8_e4m3",
    "float8_e5m2": "f8_e5m2", "int64": "i64", "int32": "i32", "int16": "i16", "int8": "i8", "uint8": "u8",
    "uint16": "u16", "uint32": "u32", "uint64": "u64", "bool": "bool",
}  # fmt: skip


class Source(Protocol):
    """Where good bytes come from: storage whose every read is verified."""

    def read(self, name: str) -> bytes | memoryview:
        """Return the signed bytes of a tensor, or raise :class:`VerificationError`."""
        ...


@dataclass(frozen=True, slots=True)
class Root:
    """One live tensor and the BLAKE3 (hex) that its bytes were signed with; ``length`` in bytes."""

    name: str
    tensor: Tensor
    blake3: str
    length: int

    @property
    def parameter(self) -> str:
        """The parameter or buffer it belongs to: codes and scales are parts of one."""
        return self.name.partition("#")[0]

    def slices(self) -> Iterator[tuple[int, memoryview]]:
        """Yield (offset, bytes) in logical order; zero-copy for contiguous tensors in host memory."""
        flat = octets(self.tensor)
        for start in range(0, self.length, SLICE):
            yield start, flat[start : start + SLICE].cpu().numpy().data


def octets(tensor: Tensor) -> Tensor:
    """Return the bytes of ``tensor`` in logical order, uint8 of shape (n,): a view where it is contiguous."""
    import torch

    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def roots_of(model: nn.Module, signed: Iterable[TensorEntry]) -> tuple[Root, ...]:
    """Join the live tensors of ``model`` with their signed entries.

    Raises:
        UnreadableArtifact: no tensor is signed, or a name is signed twice.
        DigestMismatch: a tensor is missing, was not signed, or has another dtype or shape; its bytes come later.
    """
    from holdfast.models.tensors import resident_tensors

    entries = _unique(signed)
    live = resident_tensors(model)
    if missing := sorted(entries.keys() ^ live.keys()):
        where = "the signed manifest" if missing[0] in entries else "memory"
        raise DigestMismatch(f"only {where} has the tensor {missing[0]}", hint="audit the model as it was signed")
    return tuple(_root(name, tensor, entries[name]) for name, tensor in live.items())


def _unique(signed: Iterable[TensorEntry]) -> Mapping[str, TensorEntry]:
    listed = list(signed)
    entries = {item.name: item for item in listed}
    if not entries or len(entries) != len(listed):
        raise UnreadableArtifact("the manifest signs no tensor, or one twice", hint="sign the model's safetensors file")
    return entries


def _root(name: str, tensor: Tensor, entry: TensorEntry) -> Root:
    dtype = _DTYPES.get(str(tensor.dtype).removeprefix("torch."), str(tensor.dtype))
    if (dtype, tuple(tensor.shape)) != (entry.dtype, entry.shape):
        seen, signed = f"{dtype} {tuple(tensor.shape)}", f"{entry.dtype} {entry.shape}"
        raise DigestMismatch(f"{name} is {seen} in memory and {signed} in the signed manifest")
    return Root(name, tensor, entry.blake3, entry.length)
