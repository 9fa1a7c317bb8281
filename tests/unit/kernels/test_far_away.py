"""Kernels reach elements further away than an int32 counts: one program of each, in memory that is hardly touched."""

from __future__ import annotations

import mmap
import sys

import numpy as np
import pytest
import torch
from torch import Tensor

_FAR = 2**31
_UNRESERVED = 0x4000  # MAP_NORESERVE of Linux: pages cost nothing until they are written to


@pytest.fixture(autouse=True)
def _sparse(device: torch.device) -> None:
    if device.type != "cpu" or sys.platform != "linux":
        pytest.skip("only the interpreter, on Linux, can do without tens of GB of memory")


def zeros(count: int, dtype: type[np.generic]) -> Tensor:
    """Return zeros with 2**31 more before them, which is where an offset that wraps leads."""
    size = np.dtype(dtype).itemsize * (count + _FAR)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _UNRESERVED)
    return torch.from_numpy(np.frombuffer(memory, dtype=dtype))[_FAR:]


def test_the_channels_of_a_large_picture(device: torch.device) -> None:
    """64 channels of 8192 x 8192: the last begins 63 * 2**26 elements after the first."""
    from holdfast._kernels.int8_planes import multiply_planes

    side, channels = 8192, 64
    sums = zeros(channels * side * side, np.int32)
    image, weights = torch.ones(4 * 32, dtype=torch.int8), torch.ones(channels, 1, 4, dtype=torch.int8)
    multiply_planes[(1, 1, 1)](
        image, weights, sums, 32, side * side, side, 4 * side * side, 4 * side * side, 4 * side, 4, 1, 1, 0, 0, 4,
        channels, 0, 1, 1, 1, PLANES=1, ABOVE=0, SPLIT=False, ROWS=32, COLUMNS=64, INNER=32,
    )  # fmt: skip
    assert [int(sums[channel * side * side]) for channel in range(channels)] == [4] * channels


def test_the_sums_of_very_many_rows(device: torch.device) -> None:
    """The fourth sum of a row lies 3 * 800e6 numbers after its first."""
    from holdfast._kernels.gemm_checksum import judge_rows, multiply_and_sum

    rows = 800_000_000
    parts = zeros(4 * rows, np.float32)
    ones = torch.ones(16)
    multiply_and_sum[(1, 1)](
        torch.full((32, 16), 2.0), torch.ones(16, 16), ones, torch.zeros(32, 16), ones, ones, ones, parts, ones,
        rows, 16, 16,
        BIAS=False, COLUMNS=False, PRECISION="ieee", ROWS=32, OUTPUTS=16, INPUTS=16,
    )  # fmt: skip
    assert [float(parts[place * rows + 5]) for place in range(4)] == [512, 16384, 32, 64]
    parts[3 * rows + 7] = 0  # what the allowance of row 7 is made of
    wrong = torch.full((32,), 9, dtype=torch.int8)
    numbers = torch.tensor([480.0, 1.0, 0.0, 1.0, 0.0], dtype=torch.float64)
    judge_rows[(1,)](parts, numbers, wrong, rows, 1, ROWS=32)
    assert wrong.tolist() == [int(row == 7) for row in range(32)]
