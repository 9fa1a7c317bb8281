"""Number formats: exact values, presets, refusals."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from holdfast.errors import InvalidConfig, UnknownName, UnsupportedFormat
from holdfast.numerics.formats import (
    DynamicInt8,
    Encoded,
    FixedPoint,
    FloatingPoint,
    Logarithmic,
    Microscaling,
    Minifloat,
    NormalFloat,
    format_of_dtype,
    formats,
)
from holdfast.numerics.formats.compat import CompatBlockMinifloat


def test_presets() -> None:
    assert formats.build("int8") == FixedPoint(bits=8, symmetric=True, signed=True, granularity="channel")
    assert formats.build("uint4") == FixedPoint(bits=4, symmetric=False, signed=False, granularity="tensor")
    for name in ("int8", "rquant3", "normal16", "global2", "rquant8:clip=0.1", "fixed-point:bits=3,clip=0.1"):
        built = formats.build(name)
        assert formats.build(built.name) == built


def test_names_of_older_artifacts_stay_as_they_were() -> None:
    spec = "fixed-point:bits=4,symmetric=false,signed=false,granularity=tensor,rounding=half-even,clip=none"
    assert formats.build("uint4").name == spec
    assert formats.build("int8:clip=0.1").name.endswith("granularity=channel,rounding=half-even,clip=0.1")


def test_symmetric_int8_by_hand() -> None:
    encoded = FixedPoint(granularity="tensor").encode(torch.tensor([-1.27, 0.0, 0.635, 0.645, 1.27]))
    assert encoded.codes.dtype == torch.int8
    assert encoded.codes.tolist() == [-127, 0, 64, 64, 127]  # 63.5 and 64.5 both go to the even neighbour
    assert encoded.qparams["scale"].item() == pytest.approx(0.01)


def test_asymmetric_unsigned_covers_its_range() -> None:
    encoded = formats.build("uint2").encode(torch.tensor([-1.0, 0.0, 1.0, 2.0]))
    assert encoded.codes.dtype == torch.uint8
    assert encoded.codes.tolist() == [0, 1, 2, 3]
    assert formats.build("uint2").decode(encoded).tolist() == [-1, 0, 1, 2]


def test_rquant_is_centred_and_leaves_its_lowest_code_to_faults() -> None:
    chosen = formats.build("rquant2")
    encoded = chosen.encode(torch.tensor([-1.0, 0.0, 1.0, 2.0]))
    assert encoded.codes.tolist() == [1, 2, 2, 3]
    assert chosen.decode(encoded).tolist() == pytest.approx([-1, 0.5, 0.5, 2])
    # the lowest code, which only faults write, saturates at the low end
    faulty = Encoded(torch.tensor([0], dtype=torch.uint8), encoded.qparams)
    assert chosen.decode(faulty).item() == pytest.approx(-1)


def test_each_channel_has_its_own_range() -> None:
    x = torch.tensor([[1.0, -0.5], [100.0, 50.0]])
    encoded = formats.build("int8").encode(x)
    assert encoded.qparams["scale"].shape == (2, 1)
    assert encoded.codes.tolist() == [[127, -64], [127, 64]]


def test_symmetric_unsigned_keeps_zero_at_the_middle() -> None:
    encoded = FixedPoint(bits=4, signed=False).encode(torch.tensor([-7.0, 0.0, 7.0]))
    assert encoded.codes.tolist() == [1, 8, 15]


def test_negative_codes_of_few_bits_are_read_in_twos_complement() -> None:
    codes = torch.tensor([0b0111, 0b1000, 0b1111], dtype=torch.int8)
    qparams = {"scale": torch.tensor(1.0), "low": torch.tensor(0.0)}
    assert formats.build("int4").decode(Encoded(codes, qparams)).tolist() == [7, -8, -1]


def test_frozen_ranges_saturate() -> None:
    chosen = formats.build("fixed-point:granularity=tensor")
    qparams = chosen.encode(torch.tensor([1.27])).qparams
    again = chosen.encode(torch.tensor([5.0, -5.0, 0.01]), {"scale": torch.tensor(0.01), "low": torch.tensor(0.0)})
    assert again.codes.tolist() == [127, -127, 1]
    assert chosen.encode(torch.tensor([5.0]), qparams).qparams.keys() == qparams.keys()


def test_clip_bounds_the_range() -> None:
    chosen = formats.build("fixed-point:bits=8,clip=0.1")
    assert chosen.decode(chosen.encode(torch.tensor([-3.0, 0.02, 3.0]))).abs().max().item() == pytest.approx(0.1)


@pytest.mark.parametrize(
    "name",
    [
        "int8",
        "int4",
        "int16",
        "int32",
        "uint8",
        "rquant8",
        "rquant2",
        "normal8",
        "normal32",
        "rquant4:granularity=group",
        "fixed-point:rounding=truncate",
    ],
)
@pytest.mark.parametrize("value", [0.0, 0.1, -0.3, 1e-20, 12345.678, -1e30])
def test_constants_are_exact(name: str, value: float) -> None:
    x = torch.full((3, 4), value)
    chosen = formats.build(name)
    assert torch.equal(chosen.decode(chosen.encode(x)), x)


@pytest.mark.parametrize("name", ["int8", "int32", "uint8", "rquant8", "rquant2", "normal8", "global8"])
def test_zeros_are_exact_and_stay_near_zero_under_any_fault(name: str) -> None:
    chosen = formats.build(name)
    encoded = chosen.encode(torch.zeros(256))
    assert not chosen.decode(encoded).any()
    codes = torch.arange(256).to(encoded.codes.dtype)
    if not name.startswith("global"):  # which keeps its range whatever it holds
        assert chosen.decode(Encoded(codes, encoded.qparams)).abs().max() <= 1e-3


def test_values_that_round_beyond_float32_are_refused() -> None:
    chosen = FixedPoint(bits=8, symmetric=False, granularity="tensor", epsilon=0.001)
    with pytest.raises(UnsupportedFormat, match="beyond float32"):
        chosen.encode(torch.tensor([-3.4e38, 0.0, 3.4e38]))
    assert torch.isfinite(chosen.decode(chosen.encode(torch.tensor([-3e38, 0.0, 3e38])))).all()


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("epsilon", [0.0, 1e-3])
def test_thirty_two_bits_saturate_without_losing_precision(symmetric: bool, epsilon: float) -> None:
    chosen = FixedPoint(bits=32, saturate=True, symmetric=symmetric, epsilon=epsilon)
    for x in (torch.full((3, 2), 0.3), torch.linspace(-0.7, 0.3, 10).view(2, 5)):
        encoded = chosen.encode(x)
        decoded = chosen.decode(encoded)
        assert decoded.tolist() == [pytest.approx(row, rel=3e-9, abs=1e-9) for row in x.double().tolist()]
        assert torch.equal(chosen.encode(decoded, encoded.qparams).codes, encoded.codes)


def test_group_ranges_follow_their_own_group() -> None:
    chosen = FixedPoint(granularity="group", group=2)
    encoded = chosen.encode(torch.tensor([[1.27, -1.0, 127.0, 1.0, 2.54], [0.0, 0.0, 1.0, 1.0, 1.0]]))
    assert encoded.qparams["scale"].shape == (2, 3)
    assert encoded.qparams["scale"][0].tolist() == pytest.approx([0.01, 1, 0.02])
    assert encoded.codes[0].tolist() == [127, -100, 127, 1, 127]


def test_thirty_two_bits_need_float64() -> None:
    x = torch.tensor([1.0, 1 / 3, -(2.0**-20)])
    chosen = FixedPoint(bits=32, granularity="tensor")
    encoded = chosen.encode(x)
    assert encoded.codes.tolist() == [2**31 - 1, round((2**31 - 1) * x[1].item()), -2048]
    assert chosen.decode(encoded).dtype == torch.float64
    assert torch.equal(chosen.decode(encoded).float(), x)


def test_sixteen_bits_by_hand() -> None:
    encoded = FixedPoint(bits=16, granularity="tensor").encode(torch.tensor([3.2767, -1.0]))
    assert encoded.codes.dtype == torch.int16
    assert encoded.codes.tolist() == [32767, -10000]


def test_rounding_halves_the_error_of_truncation() -> None:
    x = torch.linspace(-1, 1, 1001)
    error = {
        rounding: (chosen.decode(chosen.encode(x)) - x).abs().max().item()
        for rounding in ("half-even", "truncate")
        for chosen in [FixedPoint(bits=4, granularity="tensor", rounding=rounding)]
    }
    assert error["half-even"] == pytest.approx(1 / 14, rel=0.05)
    assert error["truncate"] == pytest.approx(1 / 7, rel=0.05)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_fixed_point_refuses_what_it_cannot_hold(bad: float) -> None:
    with pytest.raises(UnsupportedFormat, match="NaN or infinite"):
        formats.build("int8").encode(torch.tensor([1.0, bad]))


def test_floating_point_keeps_patterns_and_refuses_overflow() -> None:
    assert formats.build("fp32").encode(torch.tensor([1.0])).codes.tolist() == [0x3F800000]
    assert formats.build("bf16").encode(torch.tensor([1.0])).codes.tolist() == [0x3F80]
    assert formats.build("fp8-e4m3fn").encode(torch.tensor([448.0])).codes.tolist() == [0x7E]
    assert formats.build("fp16").decode(formats.build("fp16").encode(torch.tensor([math.inf]))).item() == math.inf
    for name, value in (("fp16", 1e6), ("fp8-e4m3fn", 1e4), ("fp8-e4m3fn", math.inf), ("fp8-e5m2", 1e6)):
        with pytest.raises(UnsupportedFormat, match="beyond its range"):
            formats.build(name).encode(torch.tensor([value]))


def test_fields_name_every_bit() -> None:
    assert formats.build("fp32").fields() == ("mantissa",) * 23 + ("exponent",) * 8 + ("sign",)
    assert formats.build("int8").fields() == ("magnitude",) * 7 + ("sign",)
    assert formats.build("rquant4").fields() == ("magnitude",) * 4


def test_bad_arguments() -> None:
    for arguments, message in (
        ({"bits": 9}, "2 to 8 bits"),
        ({"bits": 16, "signed": False}, "unsigned codes have at most 8 bits"),
        ({"rounding": "up"}, "rounding is 'up'"),
        ({"range": "learned"}, "range is 'learned'"),
        ({"range": "fixed"}, "fixed range needs its bound"),
        ({"range": "clipped"}, "clipped range needs its bound"),
        ({"clip": math.inf}, "positive bound"),
        ({"epsilon": -1e-3}, "epsilon"),
        ({"centred": True}, "symmetric range is centred already"),
        ({"low": -1.0}, "no lower end"),
        ({"low": 2.0, "clip": 1.0, "range": "fixed", "symmetric": False}, "no lower end"),
        ({"granularity": "row"}, "no granularity"),
        ({"granularity": "group", "group": 0}, "at least one element"),
    ):
        with pytest.raises(InvalidConfig, match=message):
            FixedPoint(**arguments)
    with pytest.raises(InvalidConfig, match="no option 'clipp'"):
        formats.build("rquant8:clipp=0.1")
    with pytest.raises(UnsupportedFormat, match="beyond float32"):
        FixedPoint().encode(torch.tensor([1e300], dtype=torch.float64))
    with pytest.raises(InvalidConfig, match="positive bound"):
        FixedPoint(clip=-1.0)
    with pytest.raises(InvalidConfig, match="granularity"):
        formats.build("fixed-point:granularity=row")
    with pytest.raises(UnknownName) as caught:
        formats.build("rqant8")
    assert "rquant8" in caught.value.hint
    with pytest.raises(UnsupportedFormat, match="int32"):
        format_of_dtype(torch.int32)


def test_the_page_of_formats_names_each_of_them(repository: Path) -> None:
    page = (repository / "docs/formats.md").read_text()
    described = (FixedPoint, FloatingPoint, Minifloat, Microscaling, Logarithmic, NormalFloat, DynamicInt8)
    ours = [name for name in formats.names() if isinstance(formats.build(name), (*described, CompatBlockMinifloat))]
    assert len(ours) > 50
    assert [name for name in ours if f"`{name}`" not in page] == []
