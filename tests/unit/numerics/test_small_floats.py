"""Floats of eight bits and less against torch's casts and ml_dtypes, on every code and on a million values."""

from __future__ import annotations

import math
import types

import numpy as np
import pytest
import torch
from torch import Tensor

from holdfast.errors import InvalidConfig, UnsupportedFormat
from holdfast.numerics import bits
from holdfast.numerics.formats import formats
from holdfast.numerics.formats.elements import ELEMENTS, SmallFloat
from holdfast.numerics.formats.minifloat import Minifloat
from holdfast.seeds import derive


@pytest.fixture(scope="module")
def ml_dtypes() -> types.ModuleType:
    return pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed; pip install ml_dtypes")


def a_million(greatest: float) -> Tensor:
    """Values of all magnitudes that ``greatest`` bounds, every boundary between two codes among them."""
    generator = derive(0, "small-floats").torch()
    exponents = torch.empty(500_000).uniform_(-20, math.log2(greatest), generator=generator)
    some = torch.randn(500_000, generator=generator) * greatest / 8
    return torch.cat([exponents.exp2() * torch.randn(500_000, generator=generator).sign(), some]).clamp(
        -greatest, greatest
    )


def with_ties(values: Tensor) -> Tensor:
    """Midpoints of neighbouring ``values`` and the floats just beside them."""
    ordered = values[torch.isfinite(values)].unique()
    middle = (ordered[1:] + ordered[:-1]) / 2
    sides = [torch.nextafter(middle, torch.full_like(middle, way)) for way in (-math.inf, math.inf)]
    return torch.cat([ordered, middle, *sides])


@pytest.mark.parametrize(("name", "dtype"), [("e4m3", torch.float8_e4m3fn), ("e5m2", torch.float8_e5m2)])
def test_ocp_fp8_is_torchs(name: str, dtype: torch.dtype) -> None:
    element = ELEMENTS[name]
    codes = torch.arange(256, dtype=torch.uint8)
    ours, theirs = element.decode(codes).float(), codes.view(dtype).float()
    assert torch.equal(torch.isnan(ours), torch.isnan(theirs))
    assert bits.bit_equal(ours[~torch.isnan(ours)], theirs[~torch.isnan(theirs)])
    assert isinstance(element, SmallFloat)
    x = torch.cat([a_million(element.greatest), with_ties(ours)])
    assert torch.equal(element.encode(x.double()), x.to(dtype).view(torch.uint8))


@pytest.mark.parametrize(
    ("element", "name"),
    [
        (ELEMENTS["e4m3"], "float8_e4m3fn"),
        (ELEMENTS["e5m2"], "float8_e5m2"),
        (ELEMENTS["e3m2"], "float6_e3m2fn"),
        (ELEMENTS["e2m3"], "float6_e2m3fn"),
        (ELEMENTS["e2m1"], "float4_e2m1fn"),
        (Minifloat().element, "float8_e3m4"),
        (SmallFloat(4, 3, 7, "ieee"), "float8_e4m3"),
    ],
)
def test_every_code_and_a_million_values_are_those_of_ml_dtypes(
    ml_dtypes: types.ModuleType, element: SmallFloat, name: str
) -> None:
    dtype = getattr(ml_dtypes, name)
    codes = np.arange(2**element.bits, dtype=np.uint8)
    theirs = torch.from_numpy(codes.view(dtype).astype(np.float32))
    ours = element.decode(torch.from_numpy(codes)).float()
    assert torch.equal(torch.isnan(ours), torch.isnan(theirs))
    assert bits.bit_equal(ours[~torch.isnan(ours)], theirs[~torch.isnan(theirs)])
    x = torch.cat([a_million(element.greatest), with_ties(ours)])
    expected = x.numpy().astype(dtype).view(np.uint8)
    assert torch.equal(element.encode(x.double()), torch.from_numpy(expected))


def test_e3m4_keeps_infinities_and_nan_and_refuses_what_lies_beyond() -> None:
    chosen = formats.build("fp8-e3m4")
    x = torch.tensor([15.5, 2.0**-6, math.inf, -math.inf, math.nan, -0.0])
    encoded = chosen.encode(x)
    assert encoded.codes.tolist() == [0x6F, 0x01, 0x70, 0xF0, 0x78, 0x80]
    assert bits.bit_equal(chosen.decode(encoded)[:4], x[:4])
    assert torch.isnan(chosen.decode(encoded)[4])
    for value in (15.6, -100.0):
        with pytest.raises(UnsupportedFormat, match=r"beyond 15\.5"):
            chosen.encode(torch.tensor([value]))
    assert chosen.fields() == ("mantissa",) * 4 + ("exponent",) * 3 + ("sign",)


def test_formats_without_specials() -> None:
    chosen = formats.build("minifloat:exponent=2,mantissa=1,specials=none,overflow=saturate")
    assert chosen.bits == 4
    assert chosen.decode(chosen.encode(torch.tensor([100.0, -math.inf, 2.5, 3.5]))).tolist() == [6, -6, 2, 4]
    with pytest.raises(UnsupportedFormat, match="cannot hold NaN"):
        chosen.encode(torch.tensor([math.nan]))
    with pytest.raises(UnsupportedFormat, match="beyond 6"):
        formats.build("minifloat:exponent=2,mantissa=1,specials=none").encode(torch.tensor([math.inf]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"exponent": 5, "mantissa": 5}, r"no number of 2\.\.8 bits"),
        ({"exponent": -1, "mantissa": 5}, r"no number of 2\.\.8 bits"),
        ({"exponent": 1}, "two exponent bits"),
        ({"specials": "all"}, "specials is 'all'"),
        ({"overflow": "wrap"}, "overflow is 'wrap'"),
        ({"bias": 1000}, "leaves float32"),
    ],
)
def test_bad_splits(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidConfig, match=message):
        Minifloat(**arguments)
