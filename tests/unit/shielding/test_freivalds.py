"""Freivalds over Z/2^64: complete, sound as the docstring derives, and fed by secrets only."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from holdfast.errors import InvalidConfig
from holdfast.seeds import Entropy, Seed
from holdfast.shielding import Freivalds, checks
from holdfast.shielding.checking.folds import ChannelFold, PositionFold, RowFold
from holdfast.shielding.checking.freivalds import Side, choose_side
from holdfast.shielding.integer import geometry_of
from holdfast.shielding.product import Geometry, integer_product
from tests.unit.shielding.test_integer import CONVS, codes_for

SIDES: list[Side] = ["both", "channels", "positions", "recompute"]
STEPPING = nn.Conv2d(3, 12, 1, stride=2)  # reads a quarter of its pixels
LAYERS = [STEPPING, *CONVS, nn.Linear(30, 11), nn.Linear(40_000, 3)]


def residues(values: torch.Tensor) -> list[int]:
    return [value % 2**64 for value in values.flatten().tolist()]


def secret(count: int) -> torch.Tensor:
    return torch.from_numpy(Entropy().uint64(count).view("<i8"))


def work(layer: nn.Module, batch: int = 2) -> tuple[Geometry, torch.Tensor, torch.Tensor, torch.Tensor]:
    geometry, weights, x = codes_for(layer, batch)
    x = x.remainder(255).sub(127).to(torch.int8)
    return geometry, weights, x, integer_product(x, weights, geometry)


@pytest.mark.parametrize("layer", LAYERS, ids=repr)
def test_folding_channels_equals_arithmetic_on_big_integers(layer: nn.Module) -> None:
    geometry, weights, x, y = work(layer)
    r = secret(geometry.out_channels)
    linear = geometry.kind == "linear"
    fold = RowFold(r, weights) if linear else ChannelFold(r, weights, geometry, tuple(x.shape[1:]))
    y.view(-1)[:2] = torch.tensor([-(2**31), 2**31 - 1])  # the right side is exact for every int32
    out = y.movedim(1 if geometry.kind == "conv2d" else -1, -1).reshape(-1, geometry.out_channels)
    expected = [sum(a * b for a, b in zip(row, r.tolist(), strict=True)) % 2**64 for row in out.tolist()]
    assert residues(fold.right(y)) == expected
    assert residues(fold.left(x)) == residues(fold.right(integer_product(x, weights, geometry)))


@pytest.mark.parametrize("layer", [STEPPING, *CONVS], ids=repr)
def test_folding_positions_equals_arithmetic_on_big_integers(layer: nn.Module) -> None:
    geometry, weights, x, y = work(layer, 3)
    y[0, 0, 0, :2] = torch.tensor([-(2**31), 2**31 - 1])  # the right side is exact for every int32
    s = secret(y[0, 0].numel())
    fold = PositionFold(s, weights, geometry, tuple(x.shape[1:]))
    rows = y.flatten(2).flatten(0, 1).tolist()
    expected = [sum(a * b for a, b in zip(row, s.tolist(), strict=True)) % 2**64 for row in rows]
    assert residues(fold.right(y)) == expected
    true = integer_product(x, weights, geometry).flatten(2).flatten(0, 1).tolist()
    assert residues(fold.left(x)) == [sum(a * b for a, b in zip(row, s.tolist(), strict=True)) % 2**64 for row in true]


def test_more_input_channels_than_an_int32_sum_holds_are_still_exact() -> None:
    geometry = Geometry(kind="linear", out_channels=9, in_channels=140_000)
    weights = torch.randint(-3, 4, geometry.weight_shape, dtype=torch.int8)
    x = torch.randint(-127, 128, (2, 140_000), dtype=torch.int8)
    y = (x.double() @ weights.t().double()).to(torch.int32)
    assert Freivalds("channels").prepare(weights, geometry, Entropy()).accepts(x, y)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("layer", LAYERS[:7], ids=repr)
def test_every_single_bit_of_every_element_is_noticed(layer: nn.Module, side: Side) -> None:
    geometry, weights, x, y = work(layer, 1)
    verifier = Freivalds(side).prepare(weights, geometry, Entropy())
    assert verifier.accepts(x, y)
    for element in range(0, y.numel(), max(1, y.numel() // 6)):
        for bit in range(32):
            lie = y.clone()
            lie.view(-1)[element] ^= torch.tensor(1 << bit).to(torch.int32)
            assert not verifier.accepts(x, lie), (element, bit)


@pytest.mark.parametrize("side", SIDES)
def test_structured_lies_are_noticed(side: Side) -> None:
    geometry, weights, x, y = work(CONVS[1], 3)
    verifier = Freivalds(side).prepare(weights, geometry, Entropy())
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
    y = torch.eye(4, dtype=torch.int32)
    first, second = (Freivalds("channels").prepare(weights, geometry, Entropy()).fold((4,)).right(y) for _ in range(2))
    assert residues(torch.as_tensor(first)) != residues(torch.as_tensor(second))


def test_freivalds_is_a_registered_check() -> None:
    assert checks.build("freivalds") == Freivalds()
    assert checks.build("freivalds:side=positions") == Freivalds("positions")
    with pytest.raises(InvalidConfig, match="side is one of"):
        Freivalds("neither")  # type: ignore[arg-type]
    assert geometry_of(nn.ReLU()) is None


def test_the_side_follows_the_shape() -> None:
    """Convolutions of many outputs fold from both sides, and few channels of small images are computed again."""

    def side(inputs: int, outputs: int, pixels: int, kernel: int = 3) -> Side:
        pad = (kernel // 2,) * 4
        geometry = Geometry(
            kind="conv2d", in_channels=inputs, out_channels=outputs, kernel=(kernel, kernel), padding=pad
        )
        return choose_side(geometry, (inputs, pixels, pixels))

    assert side(64, 64, 56) == side(512, 512, 7) == side(3, 64, 224, 7) == "both"
    assert side(3, 8, 8) == "recompute"
    assert choose_side(Geometry(kind="linear", out_channels=4096, in_channels=4096), (4096,)) == "channels"


def test_inputs_of_many_shapes_do_not_pile_up_secrets() -> None:
    geometry, weights = Geometry(kind="linear", out_channels=9, in_channels=3), torch.ones(9, 3, dtype=torch.int8)
    verifier = Freivalds().prepare(weights, geometry, Entropy())
    for length in range(1, 40):
        x = torch.ones(1, length, 3, dtype=torch.int8)
        assert verifier.accepts(x, torch.full((1, length, 9), 3, dtype=torch.int32))
    assert len(verifier._folds) <= 16


@pytest.mark.parametrize("bits", range(1, 9))
def test_both_secrets_at_once_would_be_weaker_by_exactly_what_the_docstring_says(bits: int) -> None:
    """Z/2^bits: two factors vanish together with (bits + 2) / 2^(bits + 1); bits = 33 gives 35 / 2^34."""
    every = torch.arange(2**bits)
    vanishing = int(((every[:, None] * every[None, :]) % 2**bits == 0).sum())
    assert vanishing * 2 ** (bits + 1) == (bits + 2) * 4**bits
    assert 2**-29 < (33 + 2) / 2**34 < 2**-28


def test_no_lie_is_likelier_to_pass_two_secrets_than_a_single_entry() -> None:
    """Every 2x2 matrix with an odd entry, over Z/4, against every pair of secrets."""
    pairs = torch.cartesian_prod(*[torch.arange(4)] * 2)
    lies = torch.cartesian_prod(*[torch.arange(4)] * 4).view(-1, 2, 2)
    lies = lies[(lies % 2).flatten(1).any(1)]
    folded = torch.einsum("ri,nij,sj->nrs", pairs, lies, pairs) % 4
    passing = (folded == 0).flatten(1).double().mean(1)
    assert float(passing.max()) == (2 + 2) / 2**3
