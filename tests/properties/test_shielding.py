"""Laws of the shield for arbitrary layers: pads cancel, honest answers pass, any altered element fails."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from holdfast.seeds import Entropy
from holdfast.shielding import Freivalds, PadStore
from holdfast.shielding.checking.freivalds import Side
from holdfast.shielding.integer import accumulator_bound
from holdfast.shielding.product import Geometry, byte_planes, centred, integer_product, planes_for, planes_product

PAIR = st.tuples(st.integers(1, 3), st.integers(1, 3))


@st.composite
def cases(draw: st.DrawFn) -> tuple[Geometry, Tensor, Tensor]:
    """A geometry, int8 weights and int8 codes that fit it."""
    inputs, outputs, batch = draw(st.integers(1, 4)), draw(st.integers(1, 5)), draw(st.integers(1, 3))
    if draw(st.booleans()):
        geometry = Geometry(kind="linear", in_channels=inputs, out_channels=outputs)
        shape: tuple[int, ...] = (batch, *draw(st.lists(st.integers(1, 3), max_size=2)), inputs)
    else:
        geometry = Geometry(
            kind="conv2d",
            in_channels=inputs,
            out_channels=outputs,
            kernel=draw(PAIR),
            stride=draw(PAIR),
            dilation=draw(PAIR),
            padding=draw(st.tuples(*[st.integers(0, 2)] * 4)),
        )
        shape = (batch, inputs, draw(st.integers(7, 9)), draw(st.integers(7, 9)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    weights = torch.randint(-128, 128, geometry.weight_shape, generator=generator, dtype=torch.int8)
    return geometry, weights, torch.randint(-127, 128, shape, generator=generator, dtype=torch.int8)


@settings(max_examples=60, deadline=None)
@given(cases())
def test_a_blinded_round_trip_gives_the_true_product_and_passes(
    case: tuple[Geometry, Tensor, Tensor],
) -> None:
    geometry, weights, codes = case
    pad = PadStore(weights, geometry, Entropy()).take(tuple(codes.shape[1:]), len(codes))
    product = pad.unblind(planes_product(pad.blind(codes), weights, geometry))
    assert torch.equal(product, integer_product(codes, weights, geometry))
    assert Freivalds().prepare(weights, geometry, Entropy()).accepts(codes, product)


@settings(max_examples=60, deadline=None)
@given(cases(), st.integers(0, 2**16), st.integers(1, 2**32 - 1))
def test_any_change_of_any_element_fails(case: tuple[Geometry, Tensor, Tensor], place: int, mask: int) -> None:
    geometry, weights, codes = case
    lie = integer_product(codes, weights, geometry)
    lie.view(-1)[place % lie.numel()] ^= mask - 2**32 if mask >= 2**31 else mask
    assert not Freivalds().prepare(weights, geometry, Entropy()).accepts(codes, lie)


@settings(max_examples=30, deadline=None)
@given(cases())
def test_geometry_survives_the_wire(case: tuple[Geometry, Tensor, Tensor]) -> None:
    assert Geometry.from_json(case[0].to_json()) == case[0]


@settings(max_examples=60, deadline=None)
@given(cases())
def test_the_fast_product_equals_one_in_float64(case: tuple[Geometry, Tensor, Tensor]) -> None:
    """The reference: torch's own convolution or product in float64, where every integer here is exact."""
    geometry, weights, codes = case
    if geometry.kind == "linear":
        wanted = codes.double() @ weights.double().t()
    else:
        padded = F.pad(codes.double(), geometry.padding)
        wanted = F.conv2d(padded, weights.double(), stride=geometry.stride, dilation=geometry.dilation)
    assert torch.equal(integer_product(codes, weights, geometry), wanted.to(torch.int32))


@settings(max_examples=60, deadline=None)
@given(cases(), st.sampled_from(["both", "channels", "positions", "recompute"]))
def test_every_side_accepts_the_truth_and_refuses_a_lie(case: tuple[Geometry, Tensor, Tensor], side: Side) -> None:
    geometry, weights, codes = case
    product = integer_product(codes, weights, geometry)
    verifier = Freivalds(side).prepare(weights, geometry, Entropy())
    assert verifier.accepts(codes, product)
    product.view(-1)[-1] ^= -(2**31)
    assert not verifier.accepts(codes, product)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=40), st.integers(1, 4))
def test_byte_planes_are_the_residue(values: list[int], planes: int) -> None:
    digits = byte_planes(torch.tensor(values, dtype=torch.int32), planes)
    assert digits.shape == (planes, len(values))
    modulus = 256**planes
    totals = [sum(256**place * int(digit) for place, digit in enumerate(column)) for column in digits.t()]
    assert [total % modulus for total in totals] == [value % modulus for value in values]
    around = centred(torch.tensor(values, dtype=torch.int32), planes).tolist()
    assert around == [(value + modulus // 2) % modulus - modulus // 2 for value in values]


@settings(max_examples=60, deadline=None)
@given(cases())
def test_a_blinded_round_trip_in_the_narrowest_ring_gives_the_true_product(
    case: tuple[Geometry, Tensor, Tensor],
) -> None:
    geometry, weights, codes = case
    planes = planes_for(accumulator_bound(weights, 127, layer="layer"))
    pad = PadStore(weights, geometry, Entropy(), planes=planes).take(tuple(codes.shape[1:]), len(codes))
    message = pad.blind(codes)
    assert message.shape == (planes, *codes.shape)
    product = pad.unblind(centred(planes_product(message, weights, geometry), planes))
    assert torch.equal(product, integer_product(codes, weights, geometry))
