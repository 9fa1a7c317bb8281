"""Laws of bits, packing and formats for arbitrary values."""

from __future__ import annotations

import struct

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.errors import UnsupportedFormat
from holdfast.numerics import bits
from holdfast.numerics.formats import FixedPoint, formats
from holdfast.numerics.packing import pack, unpack

single = st.floats(width=32, allow_nan=False, allow_infinity=False)
weights = st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=40)


@st.composite
def fixed_point(draw: st.DrawFn) -> FixedPoint:
    """Any scheme: every field on its own, as far as the fields allow each other."""
    bits, symmetric = draw(st.sampled_from([2, 3, 4, 5, 6, 7, 8, 16, 32])), draw(st.booleans())
    span = draw(st.sampled_from(["adaptive", "clipped", "fixed"]))
    clip = None if span == "adaptive" else draw(st.floats(1e-3, 10))
    return FixedPoint(
        bits=bits,
        symmetric=symmetric,
        signed=bits > 8 or draw(st.booleans()),
        granularity=draw(st.sampled_from(["tensor", "channel", "group"])),
        rounding=draw(st.sampled_from(["half-even", "truncate"])),
        clip=clip,
        range=span,
        low=None if clip is None or span != "fixed" or symmetric else draw(st.none() | st.floats(-10, clip / 2)),
        centred=not symmetric and draw(st.booleans()),
        epsilon=draw(st.sampled_from([0.0, 1e-3, 0.1])),
        saturate=draw(st.booleans()),
        group=draw(st.integers(1, 40)),
    )


@given(value=single, bit=st.integers(0, 31))
def test_flip_is_the_flip_of_the_pattern(value: float, bit: int) -> None:
    (pattern,) = struct.unpack("<I", struct.pack("<f", value))
    found = bits.flip(torch.tensor([value], dtype=torch.float32), 0, bit)
    assert int(bits.int_view(found)[0]) % 2**32 == pattern ^ (1 << bit)


@given(pairs=st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1), st.integers(-(2**63), 2**63 - 1)), min_size=1))
def test_hamming_distance_is_pythons(pairs: list[tuple[int, int]]) -> None:
    left, right = (torch.tensor(column) for column in zip(*pairs, strict=True))
    assert bits.hamming_distance(left, right) == sum(((a ^ b) % 2**64).bit_count() for a, b in pairs)


@given(left=single, right=single)
def test_ulp_distance_is_a_symmetric_count(left: float, right: float) -> None:
    a, b = torch.tensor([left]), torch.tensor([right])
    distance = bits.ulp_distance(a, b).item()
    assert distance == bits.ulp_distance(b, a).item()
    assert (distance == 0) == (left == right)


@given(width=st.integers(1, 8), data=st.data())
def test_packing_round_trips(width: int, data: st.DataObject) -> None:
    values = data.draw(st.lists(st.integers(0, 2**width - 1), max_size=50))
    codes = torch.tensor(values, dtype=torch.uint8)
    assert unpack(pack(codes, width), width, len(values)).tolist() == values


@given(chosen=fixed_point(), values=weights, rows=st.integers(1, 3))
@settings(max_examples=300, deadline=None)
def test_fixed_point_is_idempotent(chosen: FixedPoint, values: list[float], rows: int) -> None:
    x = torch.tensor(values).expand(rows, -1) * torch.arange(1, rows + 1).unsqueeze(1)
    encoded = chosen.encode(x)
    decoded = chosen.decode(encoded)
    assert torch.equal(chosen.encode(decoded, encoded.qparams).codes, encoded.codes)
    assert formats.build(chosen.name) == chosen


@given(name=st.sampled_from(formats.names()), values=weights, rows=st.integers(1, 3))
@settings(max_examples=300, deadline=None)
def test_every_format_is_idempotent_or_refuses(name: str, values: list[float], rows: int) -> None:
    x = torch.tensor(values).expand(rows, -1) * torch.arange(1, rows + 1).unsqueeze(1)
    chosen = formats.build(name)
    try:
        encoded = chosen.encode(x)
    except UnsupportedFormat:
        return
    decoded = chosen.decode(encoded)
    again = chosen.encode(decoded, encoded.qparams)
    assert torch.equal(again.codes, encoded.codes)
    assert bits.bit_equal(chosen.decode(again), decoded)


@given(values=weights, width=st.integers(2, 8), symmetric=st.booleans())
@settings(max_examples=200, deadline=None)
def test_rounding_errs_by_half_a_step(values: list[float], width: int, symmetric: bool) -> None:
    chosen = FixedPoint(bits=width, symmetric=symmetric, granularity="tensor")
    x = torch.tensor(values)
    encoded = chosen.encode(x)
    step = encoded.qparams["scale"].double().item()
    rounding = x.abs().max().double().item() * 2**-22
    assert (chosen.decode(encoded).double() - x.double()).abs().max().item() <= step / 2 + rounding


@given(
    name=st.sampled_from(["fp64", "fp32", "fp16", "bf16", "fp8-e4m3fn", "fp8-e5m2"]),
    values=st.lists(st.floats(-400, 400, width=32), min_size=1, max_size=20),
)
@settings(deadline=None)
def test_floating_point_is_idempotent(name: str, values: list[float]) -> None:
    chosen = formats.build(name)
    encoded = chosen.encode(torch.tensor(values))
    assert torch.equal(chosen.encode(chosen.decode(encoded)).codes, encoded.codes)
