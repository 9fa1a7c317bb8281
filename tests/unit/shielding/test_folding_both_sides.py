"""Folding a convolution from both sides in a field of 2^40 - 87: complete, exact, sound as its docstring derives."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from holdfast.seeds import Entropy
from holdfast.shielding import Freivalds
from holdfast.shielding.checking import field
from holdfast.shielding.checking.both import BothFold
from holdfast.shielding.checking.rows import FewRowsFold
from holdfast.shielding.product import Geometry, integer_product
from tests.unit.shielding.test_freivalds import STEPPING, work
from tests.unit.shielding.test_integer import CONVS

WIDE = nn.Conv2d(2, 3, (7, 5), stride=(2, 1), padding=(3, 2))  # few channels: rows and columns fold apart
LAYERS = [STEPPING, WIDE, *CONVS]


def test_the_modulus_is_prime_and_larger_than_any_difference_of_two_int32() -> None:
    p = field.MODULUS
    assert p > 2**32
    assert all(pow(base, p - 1, p) == 1 for base in (2, 3, 5, 7, 11))
    odd, twos = p - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in (2, 3, 5, 7, 11):  # Miller-Rabin with these bases is a proof below 2.1e12
        powers = [pow(base, odd << step, p) for step in range(twos)]
        assert powers[0] == 1 or p - 1 in powers


def test_digits_and_products_equal_arithmetic_on_big_integers() -> None:
    p = field.MODULUS
    edges = torch.tensor([0, 1, p - 1, p // 2, p // 2 + 1, 0x7F7F7F7F7F, 0x8080808080, 2**32, p - 0x8080808080])
    values = torch.cat([edges, field.uniform(Entropy(), 500)])
    digits = field.digits(values)
    assert digits.dtype == torch.int8
    assert digits.shape == (5, len(values))
    back = [sum(int(d) * 256**k for k, d in enumerate(column)) % p for column in digits.t().tolist()]
    assert back == values.tolist()
    assert field.from_digits(digits).tolist() == values.tolist()
    other = values.flip(0)
    wanted = [a * b % p for a, b in zip(values.tolist(), other.tolist(), strict=True)]
    assert field.multiply(values, other).tolist() == wanted


def test_uniform_residues_cover_the_field() -> None:
    drawn = field.uniform(Entropy(), 4000)
    assert int(drawn.min()) >= 0
    assert int(drawn.max()) < field.MODULUS
    share = float((drawn < field.MODULUS // 4).double().mean())
    assert 0.2 < share < 0.3


@pytest.mark.parametrize("images", [1, 3, 40])
def test_weighing_is_exact_at_the_largest_magnitudes(images: int) -> None:
    p, largest = field.MODULUS, 2**27
    weights = torch.cat([field.uniform(Entropy(), 98), torch.tensor([p - 1, p // 2])])
    parts = torch.randint(-largest, largest + 1, (images, 5, 100), dtype=torch.int32)
    parts[0] = largest
    parts[-1, :, ::2] = -largest
    wanted = [
        (7 + sum(256**k * v * w for k, row in enumerate(image) for v, w in zip(row, weights.tolist(), strict=True))) % p
        for image in parts.tolist()
    ]
    assert field.Weighing(weights, largest).total(parts.numpy(), 7) == wanted


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("layer", LAYERS, ids=repr)
def test_both_sides_agree_on_true_products_and_on_nothing_else(layer: nn.Module, batch: int) -> None:
    geometry, weights, x, y = work(layer, batch)
    fold = BothFold(weights, geometry, tuple(x.shape[1:]), Entropy())
    assert fold.left(x) == fold.right(y)
    for element in range(0, y.numel(), max(1, y.numel() // 6)):
        for bit in range(32):
            lie = y.clone()
            lie.view(-1)[element] ^= torch.tensor(1 << bit).to(torch.int32)
            verdicts = [a == b for a, b in zip(fold.left(x), fold.right(lie), strict=True)]
            assert verdicts.count(False) == 1, (element, bit)  # of the very image that was changed


@pytest.mark.parametrize("layer", [WIDE, CONVS[1]], ids=repr)
def test_full_range_claims_fold_without_rounding(layer: nn.Module) -> None:
    """The right side is linear over the field for every int32, the lowest and the highest included."""
    geometry, weights, x, y = work(layer, 1)
    fold = BothFold(weights, geometry, tuple(x.shape[1:]), Entropy())
    zero, low, high = (fold.right(torch.full_like(y, value))[0] for value in (0, -(2**31), 2**31 - 1))
    one = fold.right(torch.ones_like(y))[0]
    assert zero == 0
    assert low == -(2**31) * one % field.MODULUS
    assert high == (2**31 - 1) * one % field.MODULUS


def test_structured_lies_are_noticed() -> None:
    geometry, weights, x, y = work(CONVS[1], 3)
    verifier = Freivalds("both").prepare(weights, geometry, Entropy())
    assert verifier.accepts(x, y)
    for lie in (-y, torch.zeros_like(y), y.flip(0), y.flip(1), y.roll(1, 3), y.roll(1, 2), y + 1, y ^ -(2**31)):
        assert not verifier.accepts(x, lie)


def test_large_batches_go_in_parts_that_the_cache_holds() -> None:
    geometry = Geometry(kind="conv2d", in_channels=3, out_channels=24, kernel=(3, 3), padding=(1,) * 4)
    weights = torch.randint(-127, 128, geometry.weight_shape, dtype=torch.int8)
    x = torch.randint(-127, 128, (7, 3, 64, 64), dtype=torch.int8)
    y = integer_product(x, weights, geometry)
    fold = BothFold(weights, geometry, (3, 64, 64), Entropy())
    assert len(fold.right(y)) == 7
    assert fold.left(x) == fold.right(y)


def test_soundness_bound_holds_in_a_small_field() -> None:
    """Z/7, every 2x2 lie against every pair of secrets: at most 2/p - 1/p^2 pass, and lies of rank one attain it."""
    p, vectors = 7, list(itertools.product(range(7), repeat=2))
    worst = 0
    for a, b, c, d in itertools.product(range(p), repeat=4):
        if (a, b, c, d) == (0, 0, 0, 0):
            continue
        folded = [((a * s + b * t) % p, (c * s + d * t) % p) for s, t in vectors]
        passed = sum((u * e + v * f) % p == 0 for e, f in folded for u, v in vectors)
        worst = max(worst, passed)
    assert worst == (2 * p - 1) * p**2  # (2/p - 1/p^2) of the p^4 pairs of secrets


def test_one_row_is_folded_by_the_arithmetic_of_the_ring() -> None:
    geometry = Geometry(kind="linear", out_channels=33, in_channels=77)
    weights = torch.randint(-128, 128, geometry.weight_shape, dtype=torch.int8)
    x = torch.randint(-128, 128, (2, 77), dtype=torch.int8)
    r = torch.from_numpy(Entropy().uint64(33).view("<i8"))
    fold, y = FewRowsFold(r, weights), integer_product(x, weights, geometry)
    assert fold.left(x) == fold.right(y)
    y[0, :2] = torch.tensor([-(2**31), 2**31 - 1])
    wanted = [sum(a * b for a, b in zip(row, r.tolist(), strict=True)) % 2**64 for row in y.tolist()]
    assert [value % 2**64 for value in fold.right(y)] == wanted
