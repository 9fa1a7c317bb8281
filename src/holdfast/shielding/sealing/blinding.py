"""One-time pads over Z/256^planes: what the untrusted world sees is uniform whatever the input.

The trusted world adds a uniform mask ``m`` to its codes ``x`` modulo ``256**planes`` and sends ``x + m`` as so many
byte planes, so that int8 hardware can multiply it. Four planes are Z/2^32; fewer do where the layer's accumulators are
proved to fit fewer bytes, and hide no less. The product is linear, so ``W x = W (x + m) - W m``, and ``u = W m`` is
computed beforehand (Tramer & Boneh, ICLR 2019). Each mask serves one sample once: two messages under one mask would
reveal the difference of their inputs.

What is *not* hidden: the int8 weights, the shapes, and the timing.
"""

from __future__ import annotations

import functools
import math
import weakref
from collections import deque
from collections.abc import Callable
from threading import RLock

import torch
from torch import Tensor

from holdfast.errors import InvalidConfig, StorageError
from holdfast.seeds import Entropy
from holdfast.shielding.own_process import OwnProcess
from holdfast.shielding.product import MOST_PLANES, Geometry, byte_planes, centred, ring_product
from holdfast.shielding.sealing.budget import Budget
from holdfast.shielding.sealing.masks import MaskStream
from holdfast.shielding.sealing.spill import Spill

_AT_ONCE = 16  # masks whose products are computed together


class Pad:
    """Masks for one message; blinds once, then unblinds once.

    Args:
        mask: int32, shape (batch, *sample).
        shift: int32, the layer's product with ``mask`` modulo ``256**planes``, shape (batch, *output).
        number: of the first mask, which the worker must repeat.
        planes: bytes of a residue.
        release: called when the pad is used up or forgotten.
    """

    def __init__(
        self,
        mask: Tensor,
        shift: Tensor,
        number: int,
        planes: int = MOST_PLANES,
        release: Callable[[], None] = lambda: None,
    ) -> None:
        self._mask: Tensor | None = mask
        self._shift: Tensor | None = shift
        self._process = OwnProcess("a mask")
        self._release = weakref.finalize(self, release)
        self._release.atexit = False
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
        product = centred(response - shift, self.planes)
        self._release()
        return product


class PadStore:
    """Precomputed unblinding vectors of one layer; every mask leaves the store before it is used and never returns.

    Masks themselves are not stored: they are drawn again from their number when they are taken.

    Args:
        codes: int8 weights of the layer.
        geometry: how they meet the input.
        masks: where masks come from; :class:`~holdfast.seeds.Entropy` stands for a fresh stream.
        budget: of memory for masks and vectors, shared with other layers; by default without limit.
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
        self._ready: dict[tuple[int, ...], deque[tuple[int, Tensor | int]]] = {}
        self._turn = RLock()

    def keep_room(self, shape: tuple[int, ...]) -> None:
        """Keep so much memory free of prepared vectors that one sample of ``shape`` can always be on its way.

        Raises:
            InvalidConfig: all the memory there is does not hold that.
        """
        self._budget.keep(self._in_use(shape))

    def prepare(self, shape: tuple[int, ...], count: int) -> None:
        """Reserve ``count`` masks for samples of ``shape`` and compute their products.

        Raises:
            StorageError: the store is full; what fitted stays ready.
            InvalidConfig: there is too little memory for one sample.
        """
        with self._turn:
            self.keep_room(shape)
            while count > 0:
                part = min(count, _AT_ONCE, self._room(shape))
                numbers, _, shifts = self._draw(shape, part)
                ready = self._ready.setdefault(shape, deque())
                ready.extend((number, self._keep(shift)) for number, shift in zip(numbers, shifts, strict=True))
                count -= part

    def vector(self, shape: tuple[int, ...]) -> int:
        """Return the bytes of one unblinding vector."""
        return 4 * math.prod(self._geometry.output_shape(shape))

    def available(self, shape: tuple[int, ...]) -> int:
        """Return how many samples of ``shape`` can be blinded without computing more."""
        return len(self._ready.get(shape, ()))

    def fitting(self, shape: tuple[int, ...], count: int) -> int:
        """Return how many of ``count`` samples of ``shape`` the memory holds masks and vectors for at once."""
        with self._turn:
            ready, left = self._ready.get(shape, deque()), self._budget.left
            for done in range(count):
                left -= self._in_use(shape) - (_held(ready[done][1]) if done < len(ready) else 0)
                if left < 0:
                    return done
        return count

    def take(self, shape: tuple[int, ...], count: int) -> Pad:
        """Remove masks for ``count`` samples from the store, computing what is missing.

        Raises:
            StorageError: they do not fit in the memory allowed.
        """
        with self._turn:
            ready, size = self._ready.get(shape, deque()), count * self._in_use(shape)
            number_ready = min(count, len(ready))
            self._budget.take(size - sum(_held(ready[place][1]) for place in range(number_ready)))
            taken = [ready.popleft() for _ in range(number_ready)]
        try:
            return self._pad(shape, count, taken, size)
        except BaseException:
            self._budget.give(size)
            raise

    def _pad(self, shape: tuple[int, ...], count: int, taken: list[tuple[int, Tensor | int]], size: int) -> Pad:
        words = [self._masks.words(range(number, number + 1), shape).to(self._codes.device) for number, _ in taken]
        shifts = [self._fetch(shift, shape).unsqueeze(0) for _, shift in taken]
        number = taken[0][0] if taken else None
        if (missing := count - len(taken)) or not taken:
            numbers, mask, shift = self._draw(shape, missing)
            words, shifts = [*words, mask], [*shifts, shift]
            number = numbers.start if number is None else number
        release = functools.partial(self._budget.give, size)
        return Pad(torch.cat(words), torch.cat(shifts), number or 0, self.planes, release)

    def _draw(self, shape: tuple[int, ...], count: int) -> tuple[range, Tensor, Tensor]:
        numbers = self._masks.reserve(count)
        mask = self._masks.words(numbers, shape).to(self._codes.device)
        return numbers, mask, ring_product(mask, self._codes, self._geometry, self.planes)

    def _in_use(self, shape: tuple[int, ...]) -> int:
        """Return the bytes of the mask and the vector of one sample on its way."""
        return 4 * math.prod(shape) + self.vector(shape)

    def _room(self, shape: tuple[int, ...]) -> int:
        """Return how many more vectors can be made and held, at least one."""
        vector, used, disk = max(self.vector(shape), 1), max(self._in_use(shape), 1), 0
        if self._spill is not None:
            disk = self._spill.left // vector
        at_once = max(self._budget.left // (used + vector), min(self._budget.left // used, 1))  # made, then copied
        room = min(self._budget.free // vector + disk, at_once)
        if room < 1:
            raise StorageError(
                f"the unblinding store is full: {self._budget}, {vector} more asked for",
                hint="prepare fewer samples, allow more memory, or give it a folder to spill to",
            )
        return room

    def _keep(self, shift: Tensor) -> Tensor | int:
        size = 4 * shift.numel()
        if self._spill is not None and size > self._budget.free:
            return self._spill.put(shift)
        self._budget.take(size)
        return shift.clone()  # or one that stays would hold all that were made with it

    def _fetch(self, shift: Tensor | int, shape: tuple[int, ...]) -> Tensor:
        if isinstance(shift, Tensor):
            return shift
        if self._spill is None:
            raise StorageError(f"unblinding vector {shift} was spilled and its folder is gone")
        return self._spill.take(shift, self._geometry.output_shape(shape)).to(self._codes.device)


def _held(shift: Tensor | int) -> int:
    """Return the bytes of memory that a prepared vector takes; one on the disk takes none."""
    return 4 * shift.numel() if isinstance(shift, Tensor) else 0
