"""Codes of one to eight bits packed into bytes without gaps, least significant first, and where each bit then lies.

Code ``i`` of width ``w`` takes the bits ``i * w`` up to ``(i + 1) * w`` of the payload, bit ``b`` of the payload being
bit ``b % 8`` of byte ``b // 8``; codes of 3, 5, 6 and 7 bits may cross a byte. Signed codes are packed in two's
complement.
"""

from __future__ import annotations

import torch
from torch import Tensor

from holdfast.errors import InvalidConfig


def packed_size(count: int, bits: int) -> int:
    """Return the number of bytes that ``count`` codes of ``bits`` bits take."""
    return -(-count * _width(bits) // 8)


def pack(codes: Tensor, bits: int) -> Tensor:
    """Pack ``codes`` (any shape; uint8 below 2**bits, or int8 in the signed range) into bytes.

    Returns:
        uint8, shape (ceil(numel * bits / 8),); unused bits of the last byte are zero.

    Raises:
        InvalidConfig: a width outside 1..8, another dtype, or a code that does not fit.
    """
    _require_fit(codes, _width(bits))
    flat, count = codes.reshape(-1), codes.numel()
    # eight codes fill a whole number of bytes: one 64-bit word each, of which ``bits`` bytes count
    words = torch.zeros(-(-count // 8), dtype=torch.int64, device=flat.device)
    for place in range(8):
        lane = flat[place::8].long() & (2**bits - 1)
        words[: len(lane)] |= lane << (bits * place)
    octets = torch.stack([(words >> (8 * place)) & 255 for place in range(bits)], 1).to(torch.uint8)
    return octets.view(-1)[: packed_size(count, bits)]


def unpack(packed: Tensor, bits: int, count: int, *, signed: bool = False) -> Tensor:
    """Return the ``count`` codes of ``packed`` (uint8, shape (n,)): uint8, or int8 when ``signed``; shape (count,).

    Raises:
        InvalidConfig: a width outside 1..8, or a payload of another length.
    """
    if packed.dtype != torch.uint8 or count < 0 or packed.numel() != packed_size(count, bits):
        raise InvalidConfig(f"{packed.numel()} bytes cannot hold exactly {count} codes of {bits} bits")
    groups = -(-count // 8)
    octets = torch.zeros(groups * bits, dtype=torch.uint8, device=packed.device)
    octets[: packed.numel()] = packed
    words = torch.zeros(groups, dtype=torch.int64, device=packed.device)
    for place, lane in enumerate(octets.view(groups, bits).unbind(1)):
        words |= lane.long() << (8 * place)
    codes = torch.empty(groups, 8, dtype=torch.uint8, device=packed.device)
    for place in range(8):
        codes[:, place] = (words >> (bits * place)) & (2**bits - 1)
    flat = codes.view(-1)[:count]
    return flat.view(torch.int8) << (8 - bits) >> (8 - bits) if signed else flat


def addresses(index: Tensor, bit: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Return (byte, bit of that byte), int64, of bit ``bit`` of the packed code ``index``; all of one shape.

    Raises:
        InvalidConfig: a width outside 1..8, or a bit that a code does not have.
    """
    if bit.numel() and not 0 <= int(bit.min()) <= int(bit.max()) < _width(bits):
        raise InvalidConfig(f"a code of {bits} bits has bits 0..{bits - 1}")
    address = index.long() * _width(bits) + bit.long()
    return address >> 3, address & 7


def byte_masks(index: Tensor, mask: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Return flips of codes as flips of packed bytes, ready for :func:`holdfast.numerics.bits.xor_` on the payload.

    Args:
        index: codes, int64, shape (n,), each at most once.
        mask: int64, shape (n,); bit j flips bit j of the code. Bits above the width flip nothing.
        bits: width of a code.

    Returns:
        Bytes, int64, ascending, each at most once, and what to XOR into them.
    """
    start = index.long() * _width(bits)
    wide = (mask & (2**bits - 1)) << (start & 7)
    places = torch.cat([start >> 3, (start >> 3) + 1])
    parts = torch.cat([wide & 255, wide >> 8])
    byte, inverse = torch.unique(places[parts != 0], return_inverse=True)
    # no two codes share a bit, so that the sum of their masks is their union
    return byte, torch.zeros_like(byte).index_add_(0, inverse, parts[parts != 0])


def _require_fit(codes: Tensor, bits: int) -> None:
    if codes.dtype not in (torch.uint8, torch.int8):
        raise InvalidConfig(f"codes to pack are uint8 or int8, not {codes.dtype}")
    low, high = (0, 2**bits) if codes.dtype == torch.uint8 else (-(2 ** (bits - 1)), 2 ** (bits - 1))
    if codes.numel() and not low <= int(codes.min()) <= int(codes.max()) < high:
        raise InvalidConfig(f"codes of {bits} bits lie from {low} to below {high}, not all of these do")


def _width(bits: int) -> int:
    if not 1 <= bits <= 8:
        raise InvalidConfig(f"packing knows 1 to 8 bits, not {bits}")
    return bits
