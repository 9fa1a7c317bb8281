"""Launches of the kernel of :mod:`holdfast._kernels.int8_planes`: which tiles, and how many programs share a sum."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast._kernels.int8_planes import multiply_planes
from holdfast._kernels.int8_windows import Windows

MOST_INNER = 2**17 - 1  # products of int8 with int8 that surely sum to an int32, of one plane in one program
_LEAST_INNER = 32  # what a product of int8 on tensor cores takes
_LEAST_STEPS = 4  # of a program along the sum: fewer are not worth adding up in memory
_WAVES = 2  # programs for each multiprocessor, if the sum can be shared
_FARTHEST = 2**31 - 2**16  # what an int32 counts to, with room for one tile more


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """What one program computes at once; a matter of speed alone.

    Attributes:
        rows: output positions.
        columns: output channels.
        inner: bytes of a window.
        warps: of a program.
        stages: tiles on their way from memory.
    """

    rows: int
    columns: int
    inner: int = 64
    warps: int = 4
    stages: int = 3

    def most(self, planes: int) -> int | None:
        """Return how many registers a thread may take; None for what it needs.

        Eight warps of 128 leave room for another program beside them, and sums of three planes are not spilt then.
        """
        return 128 if self.warps == 8 and planes < 4 else None


TILES = {"triton-32x64": Tile(rows=32, columns=64), "triton-64x128": Tile(rows=64, columns=128, warps=8)}


def multiply(
    images: Tensor, weights: Tensor, windows: Windows, *, above: int = 0, tile: Tile, programs: int | None = None
) -> Tensor:
    """Return the product of weights with every window, modulo ``2**(32 - above)`` around zero.

    Args:
        images: int8, from :meth:`~holdfast._kernels.int8_windows.Windows.images`, contiguous; up to four planes.
        weights: int8, from :meth:`~holdfast._kernels.int8_windows.Windows.weights`, on the same device.
        above: bits above the residue, 0, 8, 16 or 24.
        tile: of one program.
        programs: how many share a sum, at most; by default so many that the device is busy.

    Returns:
        int32, shape (batch, outputs, height, width).
    """
    planes, batch, high, wide, depth = images.shape
    places, channels = windows.places(high, wide), windows.outputs // windows.groups
    taps, run, line = weights.shape[1], windows.run, wide * depth
    inner = min(tile.inner, max(_LEAST_INNER, 1 << (run - 1).bit_length()))
    rows, blocks = batch * math.prod(places), -(-run // inner)
    grid = (-(-rows // tile.rows), windows.groups * -(-channels // tile.columns))
    part = _part(taps * blocks, math.prod(grid), inner, _wanted(images.device) if programs is None else programs)
    shares = -(-taps * blocks // part)
    make = torch.empty if shares == 1 else torch.zeros
    sums = make((batch, windows.outputs, *places), dtype=torch.int32, device=images.device)
    if rows:
        with torch.cuda.device_of(images):
            multiply_planes[(*grid, shares)](
                images, weights, sums, rows, math.prod(places), places[1], batch * high * line, high * line,
                windows.stride[0] * line, windows.stride[1] * depth, taps, windows.columns,
                windows.dilation[0] * line, windows.dilation[1] * depth, run, channels,
                run if windows.groups > 1 else 0, windows.groups, blocks, part,
                PLANES=planes, ABOVE=above if shares == 1 else 0, SPLIT=shares > 1, ROWS=tile.rows,
                COLUMNS=tile.columns, INNER=inner,
                num_warps=tile.warps, num_stages=tile.stages, maxnreg=tile.most(planes),
            )  # fmt: skip
    return (sums << above) >> above if above and shares > 1 else sums


def fits(images: Tensor, windows: Windows, weights: Tensor) -> bool:
    """Say whether the kernel's counters reach all of an image, of a row of weights, and all windows."""
    _, batch, high, wide, depth = images.shape
    farthest = max(high * wide * depth, weights[:1].numel(), batch * math.prod(windows.places(high, wide)))
    return farthest < _FARTHEST


def _part(steps: int, tiles: int, inner: int, wanted: int) -> int:
    """Return how many steps along the sum one program takes."""
    shares = max(1, min(wanted // max(tiles, 1), steps // _LEAST_STEPS))
    return min(-(-steps // shares), MOST_INNER // inner)


@functools.cache
def _wanted(device: torch.device) -> int:
    if device.type != "cuda":
        return 1
    return _WAVES * int(torch.cuda.get_device_properties(device).multi_processor_count)
