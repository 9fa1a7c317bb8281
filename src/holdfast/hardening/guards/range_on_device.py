"""The range guard's pass on a CUDA device: sentinel, replacement and count in one kernel, and no wait for the host."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from holdfast._kernels.device import attempt, obstacle

_DTYPES = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
_ACTIONS = ("clip", "zero", "resample")


def fits(x: Tensor) -> bool:
    """Say whether one kernel can guard ``x``: a float tensor on a CUDA device, in order, and outside of training."""
    return not x.requires_grad and x.dtype in _DTYPES and obstacle(x) is None


def table_of(low: Tensor | float, high: Tensor | float, mean: Tensor | float, like: Tensor) -> Tensor:
    """Return bounds and mean, each one number or one shape, as the kernel reads them: dtype of ``like``, (3, n)."""
    rows = [torch.as_tensor(item, dtype=torch.float64).reshape(-1) for item in (low, high, mean)]
    return torch.stack([row.to(like).expand(len(rows[0])) for row in rows]).contiguous()


def restricted_(x: Tensor, table: Tensor, dim: int | str | None, *, action: str, nan: str) -> Tensor | None:
    """Replace, in place, what lies outside its range; return how many values did, int32 (batch, parts of a sample).

    None, with nothing done, where the kernel does not compile; that is logged.

    Args:
        x: (batch, ...), for which :func:`fits` holds.
        table: from :func:`table_of`.
        dim: along which the bounds differ, "element", or None.
        action: ``clip``, ``zero`` or ``resample``.
        nan: ``zero`` or ``keep``.
    """
    from holdfast._kernels.ranges import restrict_

    inner = math.prod(x.shape[dim % x.dim() + 1 :]) if isinstance(dim, int) else 1
    samples = x.shape[0] if x.dim() else 1
    number, keep = _ACTIONS.index(action), nan == "keep"
    return attempt(lambda: restrict_(x, table, samples=samples, inner=inner, action=number, keep=keep), x.device)
