"""Which nodes hold the same weights, by their values: a layer that is called twice, an embedding and a head that share.

An integer graph has its own codes for each call, so what was one tensor in the model is found by what it holds. Weights
are compared as rows, one per output, each scaled to its largest magnitude: scales, and normalisation folded into them,
are no secret to speak of, and neither is a sign. Rows may stand in any order and among others. A matrix is also held
against the transposed of another, whose rows are rounded by other scales and only near.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import torch
from torch import Tensor

_BLOCK = 2**22  # elements at once
_TOP = 127.0
_TELLING = 8  # nonzero elements of a row that two layers hardly share by chance ...
_MAGNITUDES = 4  # ... and different magnitudes among them, which rows of a binary or ternary layer do not have
_LOOKED_AT = 256  # elements of a row, spread over it, among which magnitudes are counted
_NEAR = 0.98  # cosine; int8 codes of one row are nearer than that, rows of different layers never


@dataclass(frozen=True, slots=True)
class Held:
    """Weights of a node: (out, ...), or a vector; codes with a ``scale`` (out,), or the values themselves."""

    values: Tensor
    scale: Tensor | None = None

    def part(self, rows: slice, columns: slice = slice(None)) -> Tensor:
        """Return some rows and columns of a matrix as float32."""
        found = self.values[rows, columns].float()
        return found if self.scale is None else found * self.scale[rows].unsqueeze(1)


def tied(held: Mapping[str, Sequence[Held]]) -> dict[str, tuple[str, ...]]:
    """Return, by node, the other nodes that hold some of its weights.

    Args:
        held: weights by node.
    """
    owners: dict[bytes, set[str]] = {}
    for name, values in held.items():
        for value in values:
            for mark in _marks(value.values):
                owners.setdefault(mark, set()).add(name)
    found: dict[str, set[str]] = {name: set() for name in held}
    for names in {frozenset(names) for names in owners.values() if len(names) > 1} | set(_transposed(held)):
        for name in names:
            found[name] |= names - {name}
    return {name: tuple(other for other in held if other in found[name]) for name in held}


def _marks(value: Tensor) -> Iterator[bytes]:
    """Yield a digest of the whole, and one of each row that tells."""
    if value.numel() < 2 or not value.dim():
        return
    rows = value.reshape(1, -1) if value.dim() == 1 or value[0].numel() == 1 else value.flatten(1)
    whole, told = blake2b(digest_size=16), False
    for part in rows.split(max(_BLOCK // rows.shape[1], 1)):
        codes = _canonical(part)
        whole.update(codes.numpy().tobytes())
        told = told or bool((codes != codes[:, :1]).any())  # one number again and again is nobody's secret
        for row in codes[_telling(codes)].numpy():
            yield blake2b(row.tobytes(), digest_size=16).digest()
    if told:
        yield whole.digest() + str(tuple(rows.shape)).encode()


def _canonical(rows: Tensor) -> Tensor:
    """Return rows as int8, the largest magnitude of each at 127 and its first element that is not 0 positive."""
    wide = rows.to(torch.float32).nan_to_num()
    scale = wide.abs().amax(1, keepdim=True) / _TOP
    codes = (wide / torch.where(scale > 0, scale, 1.0)).round().clamp(-_TOP, _TOP)
    first = codes.gather(1, (codes != 0).to(torch.uint8).argmax(1, keepdim=True))
    return (codes * torch.where(first < 0, -1.0, 1.0)).to(torch.int8)


def _telling(codes: Tensor) -> Tensor:
    """Return which rows are so particular that another layer has them for no other reason than sharing them."""
    some = codes[:, :: max(codes.shape[1] // _LOOKED_AT, 1)]  # sorting all of a wide layer takes seconds
    sizes = some.short().abs().sort(1).values
    kinds = (sizes[:, 1:] != sizes[:, :-1]).sum(1) + 1
    return ((codes != 0).sum(1) >= _TELLING) & (kinds >= _MAGNITUDES)


def _transposed(held: Mapping[str, Sequence[Held]]) -> Iterator[frozenset[str]]:
    """Yield pairs of nodes of which one holds what the other does, transposed."""
    shapes: dict[tuple[int, ...], list[tuple[str, Held]]] = {}
    for name, values in held.items():
        for value in values:
            shape = tuple(value.values.shape)
            if len(shape) == 2 and min(shape) > 1 and value.values.numel() >= _TELLING:
                for other, seen in shapes.get(shape[::-1], ()):
                    if other != name and _turned(value, seen):
                        yield frozenset((name, other))
                shapes.setdefault(shape, []).append((name, value))


def _turned(left: Held, right: Held) -> bool:
    """Return whether the rows of one are nearly the columns of the other; one row tells of most that are not."""
    return all(_alike(left.part(slice(most)), right.part(slice(None), slice(most)).T) for most in (1, None))


def _alike(left: Tensor, right: Tensor) -> bool:
    return bool(torch.nn.functional.cosine_similarity(left, right, dim=1).abs().median() > _NEAR)
