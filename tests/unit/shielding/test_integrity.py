"""Freivalds over Z/2^64: complete, sound as the docstring derives, and fed by secrets only."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from holdfast.errors import InvalidConfig
from holdfast.seeds import Entropy, Seed
from holdfast.shielding import Freivalds, FreivaldsVerifier, checks
from holdfast.shielding.integer import geometry_of
from holdfast.shielding.product import Geometry, integer_product
from tests.unit.shielding.test_integer import CONVS, codes_for

LAYERS = [*CONVS, nn.Linear(30, 11), nn.Linear(40_000, 3)]


@pytest.mark.parametrize("layer", LAYERS, ids=repr)
def test_both_sides_equal_arithmetic_on_big_integers(layer: nn.Module) -> None:
    geometry, weights, x = codes_for(layer, 2)
    x = x.remainder(255).sub(127).to(torch.int8)
    y = integer_product(x, weights, geometry)
    r = torch.from_numpy(Entropy().uint64(geometry.out_channels).view("<i8"))
    verifier = FreivaldsVerifier(r, weights, geometry)
    out = y.movedim(1 if geometry.kind == "conv2d" else -1, -1).reshape(-1, geometry.out_channels)
    expected = [sum(a * b for a, b in zip(row, r.tolist(), strict=True)) % 2**64 for row in out.tolist()]
    assert [v % 2**64 for v in verifier.right(y).flatten().tolist()] == expected
    assert [v % 2**64 for v in verifier.left(x).flatten().tolist()] == expected
    assert verifier.accepts(x, y)


@pytest.mark.parametrize("layer", LAYERS[:7], ids=repr)
def test_every_single_bit_of_every_element_is_noticed(layer: nn.Module) -> None:
    geometry, weights, x = codes_for(layer, 1)
    x = x.remainder(255).sub(127).to(torch.int8)
    y = integer_product(x, weights, geometry)
    verifier = Freivalds().prepare(weights, geometry, Entropy())
    for element in range(0, y.numel(), max(1, y.numel() // 12)):
        for bit in range(32):
            lie = y.clone()
            lie.view(-1)[element] ^= torch.tensor(1 << bit).to(torch.int32)
            assert not verifier.accepts(x, lie), (element, bit)


def test_structured_lies_are_noticed() -> None:
    geometry, weights, x = codes_for(CONVS[1], 3)
    x = x.remainder(255).sub(127).to(torch.int8)
    y = integer_product(x, weights, geometry)
    verifier = Freivalds().prepare(weights, geometry, Entropy())
    for lie in (-y, torch.zeros_like(y), y.flip(0), y.flip(1), y.roll(1, 3), y + 1, y ^ -(2**31)):
        assert not verifier.accepts(x, lie)


def test_soundness_bound_is_exact_in_a_small_ring() -> None:
    """Z/2^8 with claims that fit 4 bits: every lie against every challenge; the worst lie attains the bound."""
    ring, fits = 2**8, 2**4
    challenges = torch.arange(ring, dtype=torch.uint8)
    worst = 0.0
    for lie in itertools.product(range(-fits + 1, fits), repeat=2):
        if lie == (0, 0):
            continue
        left, right = (challenges * (part % ring) for part in lie)  # uint8 wraps: this is Z/2^8
        worst = max(worst, int((left[:, None] + right[None, :] == 0).sum()) / ring**2)
    # |D| < 2^4, so two divides it at most 3 times: the bound is 2^3 / 2^8, and D = (8, 0) attains it
    assert worst == 2**3 / ring


def test_the_narrow_ring_would_miss_the_top_bit() -> None:
    """Why the ring is Z/2^64: modulo 2^32 half of all challenges ignore a flip of bit 31."""
    r = torch.from_numpy(Entropy().uint32(4000).astype("int64"))
    missed = float(((r << 31) % 2**32 == 0).double().mean())
    assert 0.45 < missed < 0.55
    assert not bool(((r << 31) == 0)[r != 0].any())


@pytest.mark.parametrize("source", [Seed(7), 7, torch.Generator(), None])
def test_a_challenge_that_could_be_replayed_is_refused(source: object) -> None:
    geometry = Geometry(kind="linear", out_channels=2, in_channels=2)
    with pytest.raises(InvalidConfig, match="needs Entropy"):
        Freivalds().prepare(torch.ones(2, 2, dtype=torch.int8), geometry, source)  # type: ignore[arg-type]


def test_challenges_differ_every_time() -> None:
    geometry, weights = Geometry(kind="linear", out_channels=4, in_channels=4), torch.eye(4, dtype=torch.int8)
    first, second = (Freivalds().prepare(weights, geometry, Entropy()) for _ in range(2))
    y = torch.eye(4, dtype=torch.int32)
    assert not torch.equal(first.right(y), second.right(y))


def test_freivalds_is_a_registered_check() -> None:
    assert checks.build("freivalds") == Freivalds()
    assert geometry_of(nn.ReLU()) is None
