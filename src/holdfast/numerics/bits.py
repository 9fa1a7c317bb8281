"""Bits of tensors: integer views, exact flips, counts and fields.

A tensor's *codes* are its elements read as unsigned integers of the same width. Flips are XORs on an integer view,
on the tensor's own device, so a flip of a flip is the original bit pattern whatever the dtype. Bit 0 is the
least significant.
"""

from __future__ import annotations

import torch
from torch import Tensor

from holdfast._kernels.device import attempt, obstacle
from holdfast.errors import InvalidConfig, UnsupportedFormat

_VIEWS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def bit_width(dtype: torch.dtype) -> int:
    """Return the number of bits of one element."""
    return dtype.itemsize * 8


def int_view(tensor: Tensor) -> Tensor:
    """Return ``tensor`` viewed as uint8, int16, int32 or int64 of the same width; shares memory.

    Raises:
        UnsupportedFormat: bool or complex, or an element that is not 1, 2, 4 or 8 bytes wide.
    """
    if tensor.dtype.is_complex or tensor.dtype == torch.bool or tensor.dtype.itemsize not in _VIEWS:
        raise UnsupportedFormat(f"{tensor.dtype} has no integer view")
    return tensor.detach().view(_VIEWS[tensor.dtype.itemsize])


def xor_(tensor: Tensor, index: Tensor, mask: Tensor) -> None:
    """XOR ``mask[k]`` into flat element ``index[k]`` of ``tensor``, in place.

    Args:
        tensor: any shape and real dtype; must be contiguous.
        index: int64, shape (n,); every element at most once (a repeated one would lose flips).
        mask: int64, shape (n,); bit j flips bit j of the element.

    Raises:
        InvalidConfig: the tensor is not contiguous, or lengths differ.
    """
    if not tensor.is_contiguous():
        raise InvalidConfig("flips need a contiguous tensor", hint="call .contiguous() first")
    if index.shape != mask.shape:
        raise InvalidConfig(f"{tuple(index.shape)} positions do not fit {tuple(mask.shape)} masks")
    codes = int_view(tensor).view(-1)
    codes[index] = codes[index] ^ narrow(mask, codes.dtype)


def narrow(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the low bits of int64 ``mask`` as ``dtype``; torch's integer casts wrap in two's complement."""
    return mask.to(dtype)


def flip(tensor: Tensor, index: int, bit: int) -> Tensor:
    """Return a copy of ``tensor`` with one bit of one flat element flipped."""
    if not 0 <= bit < bit_width(tensor.dtype):
        raise InvalidConfig(f"{tensor.dtype} has bits 0..{bit_width(tensor.dtype) - 1}, not {bit}")
    copy = tensor.detach().clone().contiguous()
    xor_(copy, torch.tensor([index]), one_bit(torch.tensor([bit])))
    return copy


def one_bit(bit: Tensor) -> Tensor:
    """Return the int64 masks with the given bits set (bit 63 is the sign)."""
    return torch.ones_like(bit, dtype=torch.int64) << bit


def set_bits(codes: Tensor, ones: int, zeros: int = 0) -> Tensor:
    """Return integer ``codes`` with the bits of ``ones`` set and then those of ``zeros`` cleared."""
    width = bit_width(codes.dtype)
    low, high = (0, 2**width) if codes.dtype == torch.uint8 else (-(2 ** (width - 1)), 2 ** (width - 1))

    def constant(pattern: int) -> int:
        pattern &= 2**width - 1
        return pattern if pattern < high else pattern + 2 * low

    return (codes | constant(ones)) & constant(~zeros)


def popcount(codes: Tensor) -> Tensor:
    """Return the number of set bits of each element, int64, same shape; any real dtype, through its bits."""
    octets = int_view(codes.contiguous().view(-1)).view(torch.uint8).view(*codes.shape, codes.dtype.itemsize)
    return _BYTE_COUNT.to(octets.device)[octets.long()].sum(-1)


_BYTE_COUNT = torch.tensor([value.bit_count() for value in range(256)])


def hamming_distance(left: Tensor, right: Tensor) -> int:
    """Return the number of differing bits of two tensors of one shape and dtype."""
    if left.shape != right.shape or left.dtype != right.dtype:
        raise InvalidConfig(f"cannot compare {left.dtype}{tuple(left.shape)} with {right.dtype}{tuple(right.shape)}")
    if left.device == right.device and obstacle(left) is None and obstacle(right) is None:
        from holdfast._kernels import chips

        found = attempt(lambda: chips.hamming_distance(left, right), left.device)
        if found is not None:
            return found
    return int(popcount(int_view(left.contiguous()) ^ int_view(right.contiguous())).sum())


def bit_equal(left: Tensor, right: Tensor) -> bool:
    """Say whether two tensors hold the same bits (so NaN equals itself and 0.0 differs from -0.0)."""
    if left.shape != right.shape or left.dtype != right.dtype:
        return False
    return torch.equal(int_view(left.contiguous()), int_view(right.contiguous()))


def ulp_distance(left: Tensor, right: Tensor) -> Tensor:
    """Return how many representable values lie between two float tensors, as float64, elementwise.

    Both zeros are one value; a NaN on either side gives infinity.
    """
    one, other = _ordered(left), _ordered(right)
    # of one sign the difference fits int64, exactly; across zero it may not, and float64 is near enough
    near = (one - other).abs().double()
    far = one.double().abs() + other.double().abs()
    distance = torch.where((one < 0) == (other < 0), near, far)
    return torch.where(_is_nan(left) | _is_nan(right), torch.inf, distance)


def _ordered(tensor: Tensor) -> Tensor:
    """Map floats to int64 that are monotone in value and differ by one between neighbours."""
    width = bit_width(tensor.dtype)
    codes = int_view(tensor.contiguous()).to(torch.int64)
    magnitude = codes & ((1 << (width - 1)) - 1)
    return torch.where((codes >> (width - 1)) & 1 == 1, -magnitude, magnitude)


def _is_nan(tensor: Tensor) -> Tensor:
    """Say where a float tensor is NaN; eight-bit floats are widened, since torch has no ``isnan`` for them."""
    return torch.isnan(tensor.float() if tensor.dtype.itemsize == 1 else tensor)
