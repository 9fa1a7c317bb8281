"""Exact integer products of convolutions and linear layers, in the true integers and modulo 2**32.

Both worlds share this file: the trusted reference multiplies int8 by int8 and gets true integers; the untrusted worker
multiplies blinded residues, cut into byte planes, by int8 and gets residues. Both run on int8 matrix units (see
:mod:`holdfast.shielding.kernels`) and neither rounds, ever.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from holdfast.errors import InvalidConfig
from holdfast.shielding.kernels import int8_matmul

CODE_MAX = 127  # activation codes are -127..127
MOST_PLANES = 4  # of int32 residues
_HALVES = 0x00808080  # 128 in each byte but the top one
_MOST_SIDE = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """How a layer's weights meet its input; everything but the weights themselves.

    Weights of a conv2d have shape (out, in, *kernel), of a linear layer (out, in).
    """

    kind: Literal["conv2d", "linear"]
    out_channels: int
    in_channels: int
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)  # zeros at left, right, top, bottom

    @property
    def inner(self) -> int:
        """Number of products in one accumulator."""
        return self.in_channels * math.prod(self.kernel)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Shape of the weights."""
        head = (self.out_channels, self.in_channels)
        return (*head, *self.kernel) if self.kind == "conv2d" else head

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the output shape of one sample for the input ``shape`` of one sample.

        Raises:
            InvalidConfig: the layer does not take such an input.
        """
        channel = -1 if self.kind == "linear" else 0
        wanted = 3 if self.kind == "conv2d" else len(shape)
        if not shape or len(shape) != wanted or shape[channel] != self.in_channels:
            raise InvalidConfig(f"a {self.kind} layer of {self.in_channels} inputs does not take samples of {shape}")
        if self.kind == "linear":
            return (*shape[:-1], self.out_channels)
        left, right, top, bottom = self.padding
        sides = (shape[1] + top + bottom, shape[2] + left + right)
        out = tuple(self._positions(side, axis) for axis, side in enumerate(sides))
        if min(out) < 1:
            raise InvalidConfig(f"an image of {shape[1]}x{shape[2]} is smaller than the kernel {self.kernel}")
        return (self.out_channels, *out)

    def _positions(self, side: int, axis: int) -> int:
        reach = self.dilation[axis] * (self.kernel[axis] - 1)
        return (side - reach - 1) // self.stride[axis] + 1

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_json(cls, value: object) -> Geometry:
        """Read what :meth:`to_json` wrote; every field is checked, since it comes from another process.

        Raises:
            InvalidConfig: a missing, unknown or impossible field.
        """
        if not isinstance(value, dict) or value.keys() != cls.__dataclass_fields__.keys():
            raise InvalidConfig("a layer geometry has other fields")
        if value["kind"] not in ("conv2d", "linear"):
            raise InvalidConfig(f"a layer is conv2d or linear, not {value['kind']!r}")
        sizes = {key: _sizes(key, value[key]) for key in ("kernel", "stride", "dilation", "padding")}
        channels = {key: _size(key, value[key], least=1) for key in ("out_channels", "in_channels")}
        return cls(kind=value["kind"], **channels, **sizes)  # type: ignore[arg-type]


def _sizes(key: str, value: object) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) != (4 if key == "padding" else 2):
        raise InvalidConfig(f"{key} of a layer geometry has another length")
    return tuple(_size(key, side, least=0 if key == "padding" else 1) for side in value)


def _size(key: str, value: object, *, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= _MOST_SIDE:
        raise InvalidConfig(f"{key} of a layer geometry is {value!r}")
    return value


def integer_product(x: Tensor, codes: Tensor, geometry: Geometry) -> Tensor:
    """Return the layer's true integer product as int32; the caller has proved that it fits.

    Args:
        x: int8 activation codes, shape (batch, *sample).
        codes: int8 weights, shape ``geometry.weight_shape``.

    Returns:
        int32, shape (batch, *output); modulo 2**32 if it does not fit after all.
    """
    out = geometry.output_shape(tuple(x.shape[1:]))
    weights = codes.reshape(geometry.out_channels, -1)
    if geometry.kind == "linear":
        rows = x.reshape(-1, geometry.in_channels)
        return int8_matmul(rows, weights.t()).reshape(x.shape[0], *out)
    images = [int8_matmul(weights, columns(image, geometry)) for image in x]
    if len(images) == 1:
        return images[0].view(1, *out)
    return torch.stack(images).view(x.shape[0], *out) if images else weights.new_empty(0, *out, dtype=torch.int32)


def columns(image: Tensor, geometry: Geometry) -> Tensor:
    """Return the operands of every output position of one image as columns, shape (inner, positions)."""
    _, high, wide = geometry.output_shape(tuple(image.shape))
    if any(geometry.padding):
        image = F.pad(image, geometry.padding)
    image = image.contiguous()
    plane, row = image.shape[1] * image.shape[2], image.shape[2]
    (down, right), (low, along) = geometry.dilation, geometry.stride
    sides = (geometry.in_channels, *geometry.kernel, high, wide)
    return image.as_strided(sides, (plane, row * down, right, row * low, along)).reshape(geometry.inner, high * wide)


def planes_for(bound: int) -> int:
    """Return the fewest bytes of a residue that still name one integer of magnitude at most ``bound``.

    That is ``ceil(bits / 8)`` for signed accumulators of so many bits: what is blinded modulo ``256**planes`` hides as
    well as modulo 2**32 (a uniform mask over any group does), and costs one int8 product a plane.

    Raises:
        InvalidConfig: more than int32 holds.
    """
    planes = (bound.bit_length() + 8) // 8  # with the sign
    if planes > MOST_PLANES:
        raise InvalidConfig(f"an accumulator of up to {bound} does not fit int32")
    return planes


def byte_planes(x: Tensor, planes: int = MOST_PLANES) -> Tensor:
    """Write int32 residues modulo ``256**planes`` as planes of balanced int8 digits, shape (planes, *x.shape).

    ``sum(digits[k] << 8 * k)`` is ``x`` modulo ``256**planes``. Adding half a byte to the three low bytes carries what
    their signed reading will lack; flipping their top bits then reads each as digit - 128. The carry out of the last
    digit is a multiple of the modulus and vanishes, as do the bytes above it.
    """
    carried = torch.empty(x.shape, dtype=torch.int32, device=x.device)  # packed, whatever x's strides
    torch.bitwise_xor(x + _HALVES, _HALVES, out=carried)
    return carried.view(torch.int8).view(*x.shape, 4)[..., :planes].movedim(-1, 0).contiguous()


def centred(x: Tensor, planes: int) -> Tensor:
    """Return the residues of int32 ``x`` modulo ``256**planes`` that lie around zero."""
    above = 8 * (MOST_PLANES - planes)
    return x if above == 0 else (x << above) >> above


def planes_product(planes: Tensor, codes: Tensor, geometry: Geometry) -> Tensor:
    """Return the layer's product with ``sum(planes[k] << 8 * k)``, by one int8 product a plane.

    Args:
        planes: int8, shape (planes, batch, *sample).
        codes: int8 weights, shape ``geometry.weight_shape``.

    Returns:
        int32, shape (batch, *output), equal to the product modulo ``256**planes``.
    """
    parts = integer_product(planes.flatten(0, 1), codes, geometry)
    parts = parts.view(planes.shape[0], planes.shape[1], *parts.shape[1:])
    total = parts[0]
    for place in range(1, len(parts)):
        total += parts[place] << 8 * place
    return total


def ring_product(x: Tensor, codes: Tensor, geometry: Geometry, planes: int = MOST_PLANES) -> Tensor:
    """Return the layer's product modulo ``256**planes``.

    Args:
        x: int32 residues, shape (batch, *sample).
        codes: int8 weights, shape ``geometry.weight_shape``.

    Returns:
        int32 residues around zero, shape (batch, *output).
    """
    return centred(planes_product(byte_planes(x, planes), codes, geometry), planes)
