"""One-time pads over Z/256^planes: what the untrusted world sees is uniform whatever the input.

The trusted world adds a uniform mask ``m`` to its codes ``x`` modulo ``256**planes`` and sends ``x + m`` as so many
byte planes, so that int8 hardware can multiply it. Four planes are Z/2^32; fewer do where the layer's accumulators are
proved to fit fewer bytes, and hide no less. The product is linear, so ``W x = W (x + m) - W m``, and ``u = W m`` is
computed beforehand (Tramer & Boneh, ICLR 2019). Each mask serves one sample once: two messages under one mask would
reveal the difference of their inputs.

What is *not* hidden: the int8 weights, the shapes, and the timing.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

import torch
from torch import Tensor

from holdfast.errors import InvalidConfig, StorageError
from holdfast.seeds import Entropy
from holdfast.shielding.product import MOST_PLANES, Geometry, byte_planes, centred, ring_product
from holdfast.shielding.sealing.masks import MaskStream
from holdfast.shielding.sealing.own_process import OwnProcess
from holdfast.shielding.sealing.spill import Spill

_AT_ONCE = 16  # masks whose products are computed together


@dataclass(slots=True)
class Budget:
    """How much secure memory precomputed unblinding vectors may take, over all layers of a session.

    Attributes:
        limit: bytes; None is no limit.
        used: bytes taken.
    """

    limit: int | None = None
    used: int = field(default=0)

    def fits(self, size: int) -> bool:
        """Say whether ``size`` more bytes fit."""
        return self.limit is None or self.used + size <= self.limit


class Pad:
    """Masks for one message; blinds once, then unblinds once.

    Args:
        mask: int32, shape (batch, *sample).
        shift: int32, the layer's product with ``mask`` modulo ``256**planes``, shape (batch, *output).
        number: of the first mask, which the worker must repeat.
        planes: bytes of a residue.
    """

    def __init__(self, mask: Tensor, shift: Tensor, number: int, planes: int = MOST_PLANES) -> None:
        self._mask: Tensor | None = mask
        self._shift: Tensor | None = shift
        self._process = OwnProcess("a mask")
        self.number, self.planes = number, planes

    def blind(self, codes: Tensor) -> Tensor:
        """Return ``codes + mask`` as int8 planes, shape (planes, batch, *sample), and forget the mask.

        Raises:
            InvalidConfig: the mask was used already, has another shape, or was copied into this process by a fork.
        """
        self._process.require()
        mask, self._mask = self._mask, None
        if mask is None:
            raise InvalidConfig("a mask blinds one message only", hint="take a new pad from the store")
        if mask.shape != codes.shape:
            raise InvalidConfig(f"a mask of {tuple(mask.shape)} does not cover codes of {tuple(codes.shape)}")
        return byte_planes(codes.to(torch.int32) + mask, self.planes)

    def unblind(self, response: Tensor) -> Tensor:
        """Return ``response - shift`` as the int32 residue around zero, and forget the shift.

        Raises:
            InvalidConfig: used already, or before :meth:`blind`.
        """
        shift, self._shift = self._shift, None
        if shift is None or self._mask is not None:
            raise InvalidConfig("a pad unblinds the one answer to the message it blinded")
        return centred(response - shift, self.planes)


class PadStore:
    """Precomputed unblinding vectors of one layer; every mask leaves the store before it is used and never returns.

    Masks themselves are not stored: they are drawn again from their number when they are taken.

    Args:
        codes: int8 weights of the layer.
        geometry: how they meet the input.
        masks: where masks come from; :class:`~holdfast.seeds.Entropy` stands for a fresh stream.
        budget: of memory, shared with other layers; by default without limit.
        spill: where vectors go that do not fit in memory; without it a full store refuses.
        planes: bytes of a residue; :func:`~holdfast.shielding.product.planes_for` the layer's proved bound suffice.

    Raises:
        InvalidConfig: ``masks`` is neither a stream nor Entropy.
    """

    def __init__(
        self,
        codes: Tensor,
        geometry: Geometry,
        masks: MaskStream | Entropy,
        *,
        budget: Budget | None = None,
        spill: Spill | None = None,
        planes: int = MOST_PLANES,
    ) -> None:
        self.planes = planes
        self._masks = masks if isinstance(masks, MaskStream) else MaskStream.fresh(masks)
        self._codes, self._geometry, self._spill = codes, geometry, spill
        self._budget = Budget() if budget is None else budget
        self._ready: dict[tuple[int, ...], deque[tuple[int, Tensor | None]]] = {}

    def prepare(self, shape: tuple[int, ...], count: int) -> None:
        """Reserve ``count`` masks for samples of ``shape`` and compute their products.

        Raises:
            StorageError: the store is full; what fitted stays ready.
        """
        while count > 0:
            part = min(count, _AT_ONCE)
            self._require_room(shape, part)
            numbers, _, shifts = self._draw(shape, part)
            ready = self._ready.setdefault(shape, deque())
            ready.extend((number, self._keep(number, shift)) for number, shift in zip(numbers, shifts, strict=True))
            count -= part

    def available(self, shape: tuple[int, ...]) -> int:
        """Return how many samples of ``shape`` can be blinded without computing more."""
        return len(self._ready.get(shape, ()))

    def take(self, shape: tuple[int, ...], count: int) -> Pad:
        """Remove masks for ``count`` samples from the store, computing what is missing."""
        ready = self._ready.get(shape, deque())
        taken = [ready.popleft() for _ in range(min(count, len(ready)))]
        words = [self._masks.words(range(number, number + 1), shape).to(self._codes.device) for number, _ in taken]
        shifts = [self._fetch(number, shift, shape).unsqueeze(0) for number, shift in taken]
        if (missing := count - len(taken)) or not taken:
            numbers, mask, shift = self._draw(shape, missing)
            words, shifts = [*words, mask], [*shifts, shift]
        return Pad(torch.cat(words), torch.cat(shifts), taken[0][0] if taken else numbers.start, self.planes)

    def _draw(self, shape: tuple[int, ...], count: int) -> tuple[range, Tensor, Tensor]:
        numbers = self._masks.reserve(count)
        mask = self._masks.words(numbers, shape).to(self._codes.device)
        return numbers, mask, ring_product(mask, self._codes, self._geometry, self.planes)

    def _size(self, shape: tuple[int, ...]) -> int:
        return 4 * math.prod(self._geometry.output_shape(shape))

    def _require_room(self, shape: tuple[int, ...], count: int) -> None:
        size = count * self._size(shape)
        if self._budget.fits(size) or (self._spill is not None and self._spill.fits(size)):
            return
        raise StorageError(
            f"the unblinding store is full: {self._budget.used} of {self._budget.limit} bytes, {size} more asked for",
            hint="prepare fewer samples, allow more memory, or give it a folder to spill to",
        )

    def _keep(self, number: int, shift: Tensor) -> Tensor | None:
        size = 4 * shift.numel()
        if self._spill is not None and not self._budget.fits(size):
            self._spill.put(number, shift)
            return None
        self._budget.used += size
        return shift

    def _fetch(self, number: int, shift: Tensor | None, shape: tuple[int, ...]) -> Tensor:
        if shift is None and self._spill is not None:
            return self._spill.take(number, self._geometry.output_shape(shape)).to(self._codes.device)
        if shift is None:
            raise StorageError(f"unblinding vector {number} was spilled and its folder is gone")
        self._budget.used -= 4 * shift.numel()
        return shift
