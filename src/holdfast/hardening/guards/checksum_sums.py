"""Checksums of stored weights: computed once, in fp64, and able to give a damaged weight back to the last bit.

A weight of shape (O, ...) is a matrix (O, K): one row for each output, its bias the last column. In each group of
outputs that read the same inputs two sums over the outputs are kept, after Huang and Abraham (IEEE Transactions on
Computers, 1984): a plain one with random signs, and one in which output n counts n + 1 times. A wrong element of column
k changes entry k of both, and the quotient of the changes says in which row it is. The element itself is what remains
of the plain sum when all others are taken off it; fp64 holds the sums of narrower weights so well that rounding this
to their dtype gives the very bits. A digest of the weights, taken with the sums, proves it.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from blake3 import blake3
from torch import Tensor, nn

from holdfast.seeds import derive

_CLOSE = 0.25  # how far a quotient may be from the whole number it stands for


def digest_of(*tensors: Tensor | None) -> str:
    """Return the BLAKE3 (hex) of the bytes of all tensors, in logical order; None adds nothing."""
    hasher = blake3()
    for tensor in tensors:
        if tensor is not None:
            flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8).cpu()
            hasher.update(flat.numpy().data)
    return hasher.hexdigest()


def random_signs(count: int, *path: str | int) -> Tensor:
    """Return ``count`` independent signs, fp64, the same for the same path."""
    drawn = torch.randint(0, 2, (count,), generator=derive(0, "checksum", *path).torch())
    return drawn.to(torch.float64) * 2 - 1


@functools.lru_cache(maxsize=256)
def kept_signs(count: int, path: str, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return :func:`random_signs` as a tensor that is made once; not to be written to."""
    return random_signs(count, *filter(None, [path])).to(device, dtype)


@dataclass(frozen=True, slots=True, eq=False)
class Sums:
    """The two checksums of one layer's weight and bias.

    Attributes:
        signs: of the outputs, fp64, shape (O,).
        plain: sum over outputs of signed rows, fp64, shape (groups, K + 1); the last column is the bias.
        counted: the same with row n of a group counted n + 1 times.
        weights: BLAKE3 (hex) of weight and bias.
        own: BLAKE3 (hex) of the sums themselves, which may be hit as well.
    """

    signs: Tensor
    plain: Tensor
    counted: Tensor
    weights: str
    own: str

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor | None, groups: int = 1) -> Sums:
        """Return the checksums of ``weight`` (O, ...) and ``bias`` (O,)."""
        signs = random_signs(len(weight)).to(weight.device)
        plain, counted = _both(_matrix(weight, bias, groups), signs.view(groups, -1))
        return cls(signs, plain, counted, digest_of(weight, bias), digest_of(signs, plain, counted))

    @property
    def groups(self) -> int:
        """Number of groups of outputs."""
        return len(self.plain)

    @property
    def bias(self) -> float:
        """Signed sum of the bias."""
        return float(self.plain[:, -1].sum())

    def intact(self) -> bool:
        """Say whether the sums still are what was computed."""
        return digest_of(self.signs, self.plain, self.counted) == self.own

    def stand_for(self, weight: Tensor, bias: Tensor | None) -> bool:
        """Say whether ``weight`` and ``bias`` still hold the bits that were summed."""
        return digest_of(weight, bias) == self.weights

    def restored(self, weight: Tensor, bias: Tensor | None) -> Restored | None:
        """Return the weights as they were summed, if what is wrong with them can be located and undone.

        Any number of wrong elements can be, as long as no two of one group share a column. None means that the result
        would not have the digest of the original: nothing unproven is ever returned.
        """
        matrix = _matrix(weight, bias, self.groups)
        signs = self.signs.view(self.groups, -1)
        places = _located(matrix, signs, self.plain, self.counted)
        for group, row, column in places:
            others = matrix[group, :, column] * signs[group]
            others[row] = 0
            value = signs[group, row] * (self.plain[group, column] - others.sum())
            matrix[group, row, column] = value
        fixed, fixed_bias = _parts(matrix, weight, bias)
        if not places or digest_of(fixed, fixed_bias) != self.weights:
            return None
        units = len(signs[0])
        return Restored(fixed, fixed_bias, tuple((group * units + row, column) for group, row, column in places))


@dataclass(frozen=True, slots=True, eq=False)
class Restored:
    """Weights whose digest is that of the original; ``places`` are (output, column) of what was wrong."""

    weight: Tensor
    bias: Tensor | None
    places: tuple[tuple[int, int], ...]


def _matrix(weight: Tensor, bias: Tensor | None, groups: int) -> Tensor:
    """Return weight and bias in fp64, shape (groups, O / groups, K + 1)."""
    rows = weight.detach().reshape(len(weight), -1).double()
    last = rows.new_zeros(len(rows)) if bias is None else bias.detach().double()
    return torch.cat([rows, last[:, None]], 1).view(groups, len(rows) // groups, -1)


def _parts(matrix: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Return weight and bias of a matrix, in the dtypes and shapes of the given ones."""
    rows = matrix.reshape(len(weight), -1)
    fixed = rows[:, :-1].reshape(weight.shape).to(weight.dtype)
    return fixed.contiguous(memory_format=_format(weight)), None if bias is None else rows[:, -1].to(bias.dtype)


def _format(weight: Tensor) -> torch.memory_format:
    """Return the memory format of a weight, which decides the kernel and so the bits."""
    last = weight.dim() == 4 and not weight.is_contiguous() and weight.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def _both(matrix: Tensor, signs: Tensor) -> tuple[Tensor, Tensor]:
    counts = torch.arange(1, matrix.shape[1] + 1, dtype=torch.float64, device=matrix.device)
    both = torch.stack([signs, signs * counts], 1) @ matrix  # (groups, 2, K + 1)
    return both[:, 0].contiguous(), both[:, 1].contiguous()


def _located(matrix: Tensor, signs: Tensor, plain: Tensor, counted: Tensor) -> list[tuple[int, int, int]]:
    """Return (group, row, column) of the wrong elements; empty where a column's changes fit no single row."""
    now, now_counted = _both(matrix, signs)
    places = []
    for group, column in (now != plain).nonzero().tolist():  # the same sums of the same bits are the same bits
        row = _row(matrix[group, :, column], now[group, column] - plain[group, column],
                   now_counted[group, column] - counted[group, column])  # fmt: skip
        if row is None:
            return []
        places.append((group, row, column))
    return places


def _row(values: Tensor, change: Tensor, counted: Tensor) -> int | None:
    """Return which of ``values`` (O,) is wrong: the only one that is no number, or the quotient of the changes."""
    if len(wild := (~torch.isfinite(values)).nonzero().flatten()):
        return int(wild[0]) if len(wild) == 1 else None
    quotient = float(counted / change)
    row = round(quotient) - 1 if abs(quotient) < 2**53 else -1
    return row if 0 <= row < len(values) and abs(quotient - row - 1) < _CLOSE else None


def weight_and_bias(layer: nn.Module) -> tuple[Tensor, Tensor | None]:
    """Return the stored tensors of a linear or convolutional layer."""
    return layer.get_parameter("weight"), layer._parameters.get("bias")
