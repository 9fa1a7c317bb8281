"""Sub-byte codes packed into bytes, least significant first, and back."""

from __future__ import annotations

import torch
from torch import Tensor

from holdfast.errors import InvalidConfig


def pack(codes: Tensor, bits: int) -> Tensor:
    """Pack unsigned ``codes`` (uint8, any shape, each below 2**bits) into bytes; the last byte is zero-filled.

    Returns:
        uint8, shape (ceil(numel * bits / 8),) for ``bits`` in 1, 2, 4, 8.

    Raises:
        InvalidConfig: another width, or a code that does not fit.
    """
    lanes = _lanes(bits)
    flat = codes.reshape(-1)
    if flat.dtype != torch.uint8 or (flat.numel() and int(flat.max()) >= 2**bits):
        raise InvalidConfig(f"codes must be uint8 below {2**bits}")
    padded = torch.zeros(-(-flat.numel() // lanes) * lanes, dtype=torch.uint8, device=flat.device)
    padded[: flat.numel()] = flat
    shifts = torch.arange(lanes, dtype=torch.uint8, device=flat.device) * bits
    return (padded.view(-1, lanes) << shifts).sum(-1, dtype=torch.uint8)


def unpack(packed: Tensor, bits: int, count: int) -> Tensor:
    """Return the first ``count`` codes of ``packed`` (uint8, shape (n,)) as uint8, shape (count,)."""
    lanes = _lanes(bits)
    if packed.numel() != -(-count // lanes):
        raise InvalidConfig(f"{packed.numel()} bytes cannot hold exactly {count} codes of {bits} bits")
    shifts = torch.arange(lanes, dtype=torch.uint8, device=packed.device) * bits
    codes: Tensor = ((packed.view(-1, 1) >> shifts) & (2**bits - 1)).reshape(-1)
    return codes[:count]


def _lanes(bits: int) -> int:
    if bits not in (1, 2, 4, 8):
        raise InvalidConfig(f"packing knows 1, 2, 4 and 8 bits, not {bits}")
    return 8 // bits
