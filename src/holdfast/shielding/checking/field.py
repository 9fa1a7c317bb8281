"""The prime field of 2^40 - 87 elements, whose residues are five int8 digits.

Claims and products fit int32, so their difference is less than 2^32 in magnitude and not zero in any field with more
elements than that. A field has no divisors of zero, which buys two things that Z/2^64 does not give: five digits carry
what there takes eight, and a product may be folded from both sides at once.
"""

from __future__ import annotations

import operator

import numpy as np
import torch
from torch import Tensor

from holdfast.seeds import Entropy
from holdfast.shielding.checking.limbs import wide_digits

MODULUS = 2**40 - 87
DIGITS = 5
_LOWEST = 0x8080808080  # what 128 in each of five bytes is worth
_WORDS = 2**40 - 1
_HALF = 20
_FEW = 4  # images whose sums Python combines as fast as numpy
_EXACT = 53  # bits of float64


def uniform(entropy: Entropy, count: int) -> Tensor:
    """Return ``count`` secret residues, each uniform over the field, as int64."""
    found = np.empty(0, dtype=np.int64)
    while len(found) < count:
        words = (entropy.uint64(count) & np.uint64(_WORDS)).astype(np.int64)
        found = np.concatenate([found, words[words < MODULUS]])
    return torch.from_numpy(found[:count])


def digits(value: Tensor) -> Tensor:
    """Write residues as balanced int8 digits, least significant first, shape (5, *value.shape).

    ``sum(digits[k] * 256**k)`` is ``value`` modulo ``MODULUS``: of the representatives of a residue, one lies between
    what five digits of -128 and five of 127 are worth.
    """
    shifted = (value + _LOWEST) % MODULUS
    bytes_ = shifted.contiguous().view(torch.uint8).view(*value.shape, 8)[..., :DIGITS]
    return (bytes_ ^ 0x80).view(torch.int8).movedim(-1, 0).contiguous()


def multiply(left: Tensor, right: Tensor) -> Tensor:
    """Return the elementwise product of residues; in halves of 20 bits, so that nothing overflows int64."""
    high, low = right >> _HALF, right % 2**_HALF
    product: Tensor = (left * high % MODULUS * 2**_HALF + left * low) % MODULUS
    return product


def from_digits(parts: Tensor) -> Tensor:
    """Return ``sum(parts[k] * 256**k)`` in the field, for integers ``parts`` below 2^53."""
    total = torch.zeros_like(parts[0], dtype=torch.int64)
    for part in reversed(parts.long().unbind()):
        total = (total * 256 + part) % MODULUS
    return total


class Weighing:
    """Sums integers, given as rows of five digits, with secret weights in the field; exactly, by float64 products.

    A sum stays below 2^53 because each weight is cut into limbs of few enough bits.

    Args:
        weights: residues, int64, any shape.
        largest: the largest magnitude of what is to be weighed.
    """

    def __init__(self, weights: Tensor, largest: int) -> None:
        bits = _EXACT + 1 - (largest * weights.numel()).bit_length()
        number = -(-(MODULUS.bit_length() + 1) // bits)
        self._limbs = wide_digits(weights.flatten(), bits, number).numpy()
        places = [pow(2, 8 * digit + bits * limb, MODULUS) for digit in range(DIGITS) for limb in range(number)]
        self._places, self._low = places, np.array(places)
        self._high = np.array([place * 2**_HALF % MODULUS for place in places])

    def total(self, parts: np.ndarray, offset: int = 0) -> list[int]:
        """Return one residue for each image, for int32 ``parts`` (images, 5, *weights.shape) in any layout."""
        numbers = parts.astype(np.float64, order="C").reshape(len(parts) * DIGITS, -1)
        sums = (numbers @ self._limbs.T).reshape(len(parts), -1).astype(np.int64)
        if len(sums) > _FEW:
            return self._all(sums, offset)
        return [(sum(map(operator.mul, row, self._places)) + offset) % MODULUS for row in sums.tolist()]

    def _all(self, sums: np.ndarray, offset: int) -> list[int]:
        """Do the same for many images without a loop, in halves of 20 bits."""
        sums %= MODULUS
        products = (sums >> _HALF) * self._high % MODULUS + (sums & (2**_HALF - 1)) * self._low % MODULUS
        found: list[int] = ((products.sum(1) + offset) % MODULUS).tolist()
        return found
