"""Exact products of int8 matrices, by the fastest way that this process has shown to be exact.

``torch._int_mm`` runs on the int8 units of a processor (VNNI, tensor cores), but it is private, and where oneDNN is
held below VNNI it saturates 16-bit partial sums and returns wrong numbers without a word. So it is used only after a
self-test with full-range data in this very process, in every layout that occurs; otherwise float32 in blocks short
enough that every partial sum is an integer it holds, and, where even that fails (a device that rounds products to
TF32), float64. On a GPU the twin in Triton is one way more, between the private one and the floats.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from holdfast._kernels import device as devices
from holdfast._kernels.int8_windows import Windows
from holdfast.errors import MissingDevice
from holdfast.seeds import derive
from holdfast.shielding.twin import by_twin

MOST_INNER = 2**17 - 1  # products of int8 with int8 are at most 2**14: so many sum to less than 2**31
_FLOAT32_INNER = 2**24 // 2**14 - 1
_CUDA_STEP = 8  # what CUDA's int8 product wants both of its inner sides to be multiples of
_CUDA_ROWS = 17
_TRIALS = ((1, 1, 2), (5, 1, 1), (1, 64, 8), (33, 160, 24), (72, 64, 130), (24, 1333, 40), (8, 4608, 49), (200, 300, 8))

Matmul = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Kernel:
    """A way to multiply int8 matrices exactly.

    Attributes:
        name: ``int-mm``, ``triton``, ``float32`` or ``float64``.
        refused: the faster ways that failed the self-test here, with what was seen.
    """

    name: str
    matmul: Matmul
    refused: tuple[str, ...] = ()


def int8_matmul(left: Tensor, right: Tensor) -> Tensor:
    """Return the product of int8 ``left`` (n, k) and int8 ``right`` (k, m) as int32.

    It is the true integer up to ``k == MOST_INNER``; a longer product is the true one modulo 2**32.
    """
    matmul = kernel(left.device.type).matmul
    if left.shape[1] <= MOST_INNER:
        return matmul(left, right)
    total = torch.zeros(left.shape[0], right.shape[1], dtype=torch.int32, device=left.device)
    for start in range(0, left.shape[1], MOST_INNER):
        part = slice(start, start + MOST_INNER)
        total += matmul(left[:, part].contiguous(), right[part])
    return total


def true_matmul(left: Tensor, right: Tensor) -> Tensor:
    """Return the true integer product of int8 matrices: int32 where it surely fits, else int64."""
    if left.shape[1] <= MOST_INNER:
        return int8_matmul(left, right)
    parts = zip(left.split(MOST_INNER, 1), right.split(MOST_INNER), strict=True)
    return torch.stack([int8_matmul(a.contiguous(), b).long() for a, b in parts]).sum(0)


@cache
def kernel(device: str = "cpu") -> Kernel:
    """Return the kernel of this process for ``device``; the first call tests them, fastest first.

    Raises:
        MissingDevice: no way to multiply is exact on ``device``, or it has no memory for the test.
    """
    refused: list[str] = []
    for name, matmul in _ways(device):
        if (problem := self_test(matmul, device)) is None:
            return Kernel(name, matmul, tuple(refused))
        refused.append(f"{name}: {problem}")
    raise MissingDevice(f"no exact int8 product on {device!r}: {'; '.join(refused)}")


def _ways(device: str) -> list[tuple[str, Matmul]]:
    twin: list[tuple[str, Matmul]] = [("triton", _triton)] if torch.device(device).type in devices.KINDS else []
    return [("int-mm", _int_mm), *twin, ("float32", _float32), ("float64", _float64)]


def self_test(matmul: Matmul, device: str = "cpu") -> str | None:
    """Return None if ``matmul`` is exact on full-range data of many shapes, or what went wrong."""
    for trial, (rows, inner, columns) in enumerate(_TRIALS):
        for left, right in _operands(trial, rows, inner, columns):
            wanted = (left.double() @ right.double()).to(torch.int32)
            try:
                got = matmul(left.to(device), right.to(device)).cpu()
            except torch.OutOfMemoryError as error:  # says nothing of the way, and is not to be remembered
                raise MissingDevice(f"{device} has no memory left for a first product") from error
            except (RuntimeError, NotImplementedError, AttributeError) as error:
                return f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"
            if got.dtype != torch.int32 or got.shape != wanted.shape or not torch.equal(got, wanted):
                return f"wrong numbers for {rows}x{inner} times {inner}x{columns}"
    return None


def _operands(trial: int, rows: int, inner: int, columns: int) -> list[tuple[Tensor, Tensor]]:
    """Full-range random operands in both layouts of the right side, and the two extremes."""
    generator = derive(0, "shielding", "kernels", trial).torch()
    left, right = (
        torch.randint(-128, 128, shape, generator=generator, dtype=torch.int8)
        for shape in ((rows, inner), (inner, columns))
    )
    lowest, highest = torch.full_like(left, -128), torch.full_like(right, 127)
    return [
        (left, right),
        (left, right.t().contiguous().t()),
        (left, torch.nn.functional.pad(right.t(), (0, 16))[:, : left.shape[1]].t()),
        (left.t().contiguous().t(), right),
        (lowest, highest),
        (torch.full_like(left, 127), highest),
    ]


def _int_mm(left: Tensor, right: Tensor) -> Tensor:
    if left.device.type != "cuda":
        return torch._int_mm(_plain(left), _plain(right))
    return _aligned_int_mm(left, right)


def _aligned_int_mm(left: Tensor, right: Tensor) -> Tensor:
    """Multiply as CUDA's library wants it: sides of its own multiples, and both operands along the sum."""
    rows, columns, inner = left.shape[0], right.shape[1], _up(left.shape[1])
    left = _grown(left.contiguous(), max(rows, _CUDA_ROWS), inner)
    right = _grown(right.t().contiguous(), _up(columns), inner)
    return torch._int_mm(left, right.t())[:rows, :columns].contiguous()


def _plain(matrix: Tensor) -> Tensor:
    """Return a matrix whose strides name one layout without overlaps; with others ``_int_mm`` returns garbage.

    A single row or column has ambiguous strides, and windows of one image may overlap in memory.
    """
    (rows, columns), (down, along) = matrix.shape, matrix.stride()
    if rows > 1 and columns > 1 and ((along == 1 and down >= columns) or (down == 1 and along >= rows)):
        return matrix
    return matrix.contiguous().as_strided((rows, columns), (columns, 1))


def _up(size: int) -> int:
    return -(-size // _CUDA_STEP) * _CUDA_STEP


def _grown(matrix: Tensor, rows: int, columns: int) -> Tensor:
    if matrix.shape == (rows, columns):
        return matrix  # padding by nothing would copy all the same
    return torch.nn.functional.pad(matrix, (0, columns - matrix.shape[1], 0, rows - matrix.shape[0]))


def _triton(left: Tensor, right: Tensor) -> Tensor:
    windows = Windows(inputs=left.shape[1], outputs=right.shape[1])
    rows = left.contiguous().view(1, left.shape[0], left.shape[1], 1, 1)
    return by_twin(windows.images(rows), windows.weights(right.t()), windows).flatten(1)


def _float32(left: Tensor, right: Tensor) -> Tensor:
    """Multiply blocks whose sums stay below 2**24, where float32 holds every integer."""
    total = torch.zeros(left.shape[0], right.shape[1], dtype=torch.int32, device=left.device)
    for start in range(0, left.shape[1], _FLOAT32_INNER):
        part = slice(start, start + _FLOAT32_INNER)
        total += (left[:, part].float() @ right[part].float()).to(torch.int32)
    return total


def _float64(left: Tensor, right: Tensor) -> Tensor:
    return (left.double() @ right.double()).to(torch.int32)
