"""One-time pads over Z/2^32: what the untrusted world sees is uniform whatever the input.

The trusted world adds a uniform mask ``m`` to its codes ``x`` modulo 2**32 and sends ``x + m``. The product is linear,
so ``W x = W (x + m) - W m``, and ``u = W m`` is computed beforehand (Tramer & Boneh, ICLR 2019). Each pair (m, u)
serves one sample once: two messages under one mask would reveal the difference of their inputs.

What is *not* hidden: the int8 weights, the shapes, and the timing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from holdfast.errors import InvalidConfig
from holdfast.seeds import Entropy
from holdfast.shielding.checking import require_entropy
from holdfast.shielding.product import Geometry, ring_product


class Pad:
    """Masks for one message; blinds once, then unblinds once.

    Args:
        mask: int32, shape (batch, *sample).
        shift: int32, the layer's product with ``mask`` modulo 2**32, shape (batch, *output).
    """

    def __init__(self, mask: Tensor, shift: Tensor) -> None:
        self._mask: Tensor | None = mask
        self._shift: Tensor | None = shift

    def blind(self, codes: Tensor) -> Tensor:
        """Return ``codes + mask`` modulo 2**32 as int32 and forget the mask.

        Raises:
            InvalidConfig: the mask was used already, or has another shape.
        """
        mask, self._mask = self._mask, None
        if mask is None:
            raise InvalidConfig("a mask blinds one message only", hint="take a new pad from the store")
        if mask.shape != codes.shape:
            raise InvalidConfig(f"a mask of {tuple(mask.shape)} does not cover codes of {tuple(codes.shape)}")
        return codes.to(torch.int32) + mask

    def unblind(self, response: Tensor) -> Tensor:
        """Return ``response - shift`` modulo 2**32 as int32 and forget the shift.

        Raises:
            InvalidConfig: used already, or before :meth:`blind`.
        """
        shift, self._shift = self._shift, None
        if shift is None or self._mask is not None:
            raise InvalidConfig("a pad unblinds the one answer to the message it blinded")
        return response - shift


class PadStore:
    """Precomputed masks of one layer; every mask leaves the store before it is used and never returns.

    Args:
        codes: int8 weights of the layer.
        geometry: how they meet the input.
        entropy: source of the masks.

    Raises:
        InvalidConfig: ``entropy`` is not :class:`~holdfast.seeds.Entropy`.
    """

    def __init__(self, codes: Tensor, geometry: Geometry, entropy: Entropy) -> None:
        require_entropy(entropy, what="a mask")
        self._codes, self._geometry, self._entropy = codes, geometry, entropy
        self._ready: dict[tuple[int, ...], list[tuple[Tensor, Tensor]]] = {}

    def prepare(self, shape: tuple[int, ...], count: int) -> None:
        """Draw ``count`` masks for samples of ``shape`` and compute their products."""
        if count < 1:
            return
        mask = torch.from_numpy(self._entropy.uint32(count, *shape).view("<i4")).to(self._codes.device)
        shift = ring_product(mask, self._codes, self._geometry)
        self._ready.setdefault(shape, []).extend(zip(mask.unsqueeze(1), shift.unsqueeze(1), strict=True))

    def available(self, shape: tuple[int, ...]) -> int:
        """Return how many samples of ``shape`` can be blinded without drawing more."""
        return len(self._ready.get(shape, ()))

    def take(self, shape: tuple[int, ...], count: int) -> Pad:
        """Remove masks for ``count`` samples from the store, drawing what is missing."""
        self.prepare(shape, count - self.available(shape))
        ready = self._ready[shape]
        taken, self._ready[shape] = ready[:count], ready[count:]
        return Pad(torch.cat([mask for mask, _ in taken]), torch.cat([shift for _, shift in taken]))
