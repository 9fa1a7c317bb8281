"""Parts of a signed tensor, indexed as safetensors' slices are: only the rows that are asked for are read and verified.

Indices are turned into one run of bytes, from the first element needed to the last; the run is verified by the groups
it touches, and the rest of the index is applied to it. A tensor-parallel rank that takes rows reads its share; one that
takes columns needs the whole tensor, whose runs lie apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from holdfast.errors import InvalidConfig
from holdfast.evidence.model_manifest import TensorEntry
from holdfast.signing.opened.views import as_tensor, layout

if TYPE_CHECKING:
    from torch import Tensor

Index = int | slice


class VerifiedSlice:
    """One tensor, not yet read; ``[...]`` takes integers, slices of step one and an ellipsis.

    The last side of a block format such as ``q4_k`` counts bytes.
    """

    def __init__(
        self,
        entry: TensorEntry,
        whole: Callable[[], memoryview],
        part: Callable[[int, int], memoryview | None],
    ) -> None:
        self._entry, self._whole, self._part = entry, whole, part

    def get_shape(self) -> list[int]:
        """Return the signed shape."""
        return list(self._entry.shape)

    def get_dtype(self) -> str:
        """Return the signed element type in upper case, as safetensors writes it (``BF16``)."""
        return self._entry.dtype.upper()

    def __getitem__(self, index: object) -> Tensor:
        """Return the part as a tensor in memory of its own.

        Raises:
            DigestMismatch: a group that it touches differs from the signed one.
            InvalidConfig: a step, a mask, a list, or an index outside the tensor.
        """
        shape, itemsize = layout(self._entry.dtype, self._entry.shape, self._entry.length)
        wanted = _per_side(index, shape)
        first, last = _run(wanted, shape)
        everything = (first, last) == (0, math.prod(shape))
        memory = None if everything else self._part(first * itemsize, last * itemsize)
        if memory is not None:
            return _gather(as_tensor(memory, self._entry.dtype, (last - first,)), wanted, shape)
        part = as_tensor(self._whole(), self._entry.dtype, shape)[
            tuple(slice(start, stop) if keep else start for start, stop, keep in wanted)
        ]
        return part if everything else part.clone()  # a part must not keep the whole alive


def _per_side(index: object, shape: tuple[int, ...]) -> list[tuple[int, int, bool]]:
    """Return (start, stop, keep) for every side; a side indexed by an integer is not kept."""
    items = list(index) if isinstance(index, tuple) else [index]
    if items.count(Ellipsis) > 1 or len(items) - items.count(Ellipsis) > len(shape):
        raise InvalidConfig(f"the index {index!r} does not fit the shape {list(shape)}")
    place = items.index(Ellipsis) if Ellipsis in items else len(items)
    fill = [slice(None)] * (len(shape) - len(items) + items.count(Ellipsis))
    items[place : place + 1] = fill
    return [_side(item, size) for item, size in zip(items, shape, strict=True)]


def _side(item: object, size: int) -> tuple[int, int, bool]:
    if isinstance(item, slice) and item.step in (None, 1):
        start, stop, _ = item.indices(size)
        return start, max(start, stop), True
    if isinstance(item, int) and not isinstance(item, bool) and -size <= item < size:
        return item % size, item % size + 1, False
    raise InvalidConfig(f"cannot take {item!r} of a side of {size}", hint="integers, and slices of step one")


def _run(wanted: list[tuple[int, int, bool]], shape: tuple[int, ...]) -> tuple[int, int]:
    """Return the elements (first, behind the last) of the row-major tensor between which everything wanted lies."""
    if any(start == stop for start, stop, _ in wanted):
        return 0, 0
    first = last = 0
    for (start, stop, _), size in zip(wanted, shape, strict=True):
        first, last = first * size + start, last * size + stop - 1
    return first, last + 1


def _gather(flat: Tensor, wanted: list[tuple[int, int, bool]], shape: tuple[int, ...]) -> Tensor:
    """Return the wanted elements of a run: a view where they are contiguous in it, with the strides of the tensor."""
    strides = [math.prod(shape[side + 1 :]) for side in range(len(shape))]
    kept = [side for side, (_, _, keep) in enumerate(wanted) if keep]
    sizes = [wanted[side][1] - wanted[side][0] for side in kept]
    view = flat.as_strided(sizes, [strides[side] for side in kept]) if flat.numel() else flat.reshape(sizes)
    return view.contiguous()
