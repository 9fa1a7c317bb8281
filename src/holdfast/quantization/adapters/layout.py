"""One quantised tensor in stored form: which stored tensors it takes, and where in them each of its numbers lies."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from holdfast.errors import InvalidConfig, UnreadableArtifact, UnsupportedFormat
from holdfast.numerics.formats import Encoded, FloatingPoint, Format, format_of_dtype, formats
from holdfast.quantization.adapters.field import Field, Octets, plain

CODES = "codes"


@dataclass(frozen=True, slots=True)
class Extent:
    """A stored tensor: what its file calls its elements, its shape there, and the bytes it takes."""

    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    start: int = 0  # first byte in the file


@dataclass(frozen=True, slots=True)
class Part:
    """The codes of a tensor, or one of its parameters."""

    field: Field
    shape: tuple[int, ...]  # of the codes or the parameter; row-major, the elements of the field
    format: str  # what the bits of an element are


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a tensor is stored.

    Attributes:
        name: of the tensor, ``model.layers.0.mlp.up_proj.weight``.
        scheme: ``gptq``, ``awq``, ``compressed-tensors``, ``bitsandbytes-nf4``, ``torchao``, ``float``, or a GGUF type
            such as ``Q4_K``.
        format: what codes and parameters mean.
        parts: ``codes``, and the parameters by the names the format gives them.
        stored: the stored tensors it takes, by name.
        fixed: content of those that hold no codes and no parameters.
    """

    name: str
    scheme: str
    format: Format
    parts: Mapping[str, Part]
    stored: Mapping[str, Extent]
    fixed: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor: an output channel is an index of dimension 0."""
        return self.parts[CODES].shape

    def unpack(self, memory: Mapping[str, Octets]) -> Encoded:
        """Return codes and parameters from the bytes of the stored tensors, by name."""
        found = {key: part.field.unpack(memory[part.field.tensor]).view(part.shape) for key, part in self.parts.items()}
        return Encoded(found.pop(CODES), found)

    def pack_(self, memory: Mapping[str, Octets], encoded: Encoded) -> None:
        """Write codes and parameters into the bytes of the stored tensors; every other bit stays.

        Raises:
            InvalidConfig: other parameters, shapes or dtypes than the layout has, or a value too wide for it.
        """
        given = {CODES: encoded.codes, **encoded.qparams}
        if given.keys() != self.parts.keys():
            raise InvalidConfig(f"{self.name} has {', '.join(self.parts)}, not {', '.join(given)}")
        for key, part in self.parts.items():
            if tuple(given[key].shape) != part.shape:
                raise InvalidConfig(f"{self.name}#{key} has shape {part.shape}, not {tuple(given[key].shape)}")
            part.field.pack_(memory[part.field.tensor], given[key])

    def pack(self, encoded: Encoded) -> dict[str, Octets]:
        """Return the bytes of the stored tensors, by name; padding is zero."""
        memory = {name: np.zeros(extent.nbytes, np.uint8) for name, extent in self.stored.items()}
        for name, content in self.fixed.items():
            memory[name][:] = np.frombuffer(content, np.uint8)
        self.pack_(memory, encoded)
        return memory


def require_stored(layout: Layout, extents: Mapping[str, Extent]) -> None:
    """Raise :class:`UnreadableArtifact` unless the file holds exactly the stored tensors that ``layout`` takes."""
    for name, wanted in layout.stored.items():
        if name not in extents:
            raise UnreadableArtifact(f"the file lacks {name}", hint=f"a {layout.scheme} weight is not whole without it")
        found = extents[name]
        if (found.dtype, found.shape) != (wanted.dtype, wanted.shape):
            have, want = (f"{item.dtype} {list(item.shape)}" for item in (found, wanted))
            raise UnreadableArtifact(
                f"{name} is {have}", hint=f"{layout.scheme} of shape {list(layout.shape)} has {want} there"
            )


# what safetensors calls an element -> its bits, and the dtype where torch has one
ELEMENTS: Mapping[str, tuple[int, torch.dtype | None]] = {
    "F64": (64, torch.float64),
    "F32": (32, torch.float32),
    "F16": (16, torch.float16),
    "BF16": (16, torch.bfloat16),
    "F8_E4M3": (8, torch.float8_e4m3fn),
    "F8_E5M2": (8, torch.float8_e5m2),
    "I64": (64, torch.int64),
    "I32": (32, torch.int32),
    "I16": (16, torch.int16),
    "I8": (8, torch.int8),
    "U8": (8, torch.uint8),
} | dict.fromkeys(("U64", "C64"), (64, None)) | {
    "U32": (32, None), "U16": (16, None), "BOOL": (8, None), "F8_E8M0": (8, None), "F8_E4M3FNUZ": (8, None),
    "F8_E5M2FNUZ": (8, None), "F6_E2M3": (6, None), "F6_E3M2": (6, None), "F4": (4, None),
}  # fmt: skip
_NAMES = {dtype: name for name, (_, dtype) in ELEMENTS.items() if dtype is not None}
REALS: Mapping[str, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def extent(dtype: torch.dtype, *shape: int) -> Extent:
    """Return what a stored tensor of ``dtype`` and ``shape`` is in safetensors."""
    return Extent(_NAMES[dtype], shape, math.prod(shape) * dtype.itemsize)


def real_of(extents: Mapping[str, Extent], name: str) -> str:
    """Return ``fp32``, ``fp16`` or ``bf16``, whichever the stored tensor ``name`` holds."""
    if name not in extents:
        raise UnreadableArtifact(f"the file lacks {name}")
    dtype = ELEMENTS[extents[name].dtype][1]
    for real, known in REALS.items():
        if dtype == known:
            return real
    raise UnsupportedFormat(f"{name} is {extents[name].dtype}", hint="scales are F32, F16 or BF16")


def floating(name: str, stored: Extent) -> Layout:
    """Return the layout of an ordinary floating-point tensor."""
    dtype = ELEMENTS[stored.dtype][1]
    if dtype is None or not dtype.is_floating_point:
        raise UnsupportedFormat(f"{name} is {stored.dtype}, which is no number format known here")
    format = formats.build(format_of_dtype(dtype))
    carrier = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
    where = plain(name, carrier, 1, math.prod(stored.shape))
    parts = {CODES: Part(where, stored.shape, format.name)}
    return Layout(name=name, scheme="float", format=format, parts=parts, stored={name: stored})


def require_finite_parameters(layout: Layout, encoded: Encoded) -> None:
    """Raise :class:`UnreadableArtifact` when a parameter, or a float tensor, holds NaN or an infinity."""
    values: dict[str, Tensor] = dict(encoded.qparams)
    if isinstance(layout.format, FloatingPoint):
        values[CODES] = layout.format.decode(encoded)
    for key, value in values.items():
        if value.is_floating_point() and not torch.isfinite(value.float()).all():
            raise UnreadableArtifact(
                f"{layout.name}#{key} holds NaN or infinite values", hint="read it with damaged=True to study it"
            )
