"""Formats whose elements share a scale, against numpy written from their specifications, and by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from holdfast.errors import InvalidConfig, UnsupportedFormat
from holdfast.numerics import bits
from holdfast.numerics.formats import Encoded, formats
from holdfast.numerics.formats.normal_float import LEVELS
from holdfast.seeds import derive

# OCP MX v1.0, tables 1 to 6: element -> exponent bits, mantissa bits, bias, greatest number
MX = {
    "mxfp8-e4m3": (4, 3, 7, 448.0),
    "mxfp8-e5m2": (5, 2, 15, 57344.0),
    "mxfp6-e3m2": (3, 2, 3, 28.0),
    "mxfp6-e2m3": (2, 3, 1, 7.5),
    "mxfp4": (2, 1, 1, 6.0),
}
BLOCKED = [*MX, "mxint8", "bm8", "bl8", "nf4", "compat-mxint8", "compat-bm8", "compat-bl8"]


def wild(*shape: int) -> Tensor:
    """Normal numbers whose blocks differ in magnitude by up to 2**60, with zeros and whole blocks of zeros."""
    generator = derive(0, "block-formats").torch()
    x = torch.randn(shape, generator=generator) * torch.randn(shape[0], 1, generator=generator).mul(20).exp2()
    x[torch.rand(shape, generator=generator) < 0.05] = 0
    x[1, :64] = 0
    return x


def blocks(x: np.ndarray, size: int) -> np.ndarray:
    rows = x.reshape(len(x), -1).astype(np.float64)
    return np.pad(rows, ((0, 0), (0, -rows.shape[1] % size))).reshape(len(x), -1, size)


def back(blocked: np.ndarray, like: Tensor) -> Tensor:
    flat = blocked.reshape(len(like), -1)[:, : like[0].numel()]
    return torch.from_numpy(np.ascontiguousarray(flat).reshape(like.shape)).float()


def round_to_float(x: np.ndarray, exponent: int, mantissa: int, bias: int, greatest: float) -> np.ndarray:
    """Round to nearest even on the grid of a small float, by the spacing of its numbers; saturate."""
    with np.errstate(divide="ignore"):
        place = np.floor(np.log2(np.abs(x), where=x != 0, out=np.full_like(x, -9999.0)))
    spacing = 2.0 ** (np.maximum(place, 1 - bias) - mantissa)
    return np.clip(np.rint(x / spacing) * spacing, -greatest, greatest)


def ocp(x: np.ndarray, size: int, emax: int, rounded: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """OCP MX v1.0, section 6.3: shared scale from the greatest magnitude, elements rounded and saturated."""
    blocked = blocks(x, size)
    greatest = np.abs(blocked).max(-1, keepdims=True)
    shared = np.floor(np.log2(greatest, where=greatest > 0, out=np.full_like(greatest, -9999.0))) - emax
    scale = 2.0 ** np.clip(shared, -127, 127)
    return rounded(blocked / scale) * scale


@pytest.mark.parametrize("shape", [(40, 128), (16, 3, 5, 5), (7, 33)])
@pytest.mark.parametrize("name", MX)
def test_mx_floats_are_ocps(name: str, shape: tuple[int, ...]) -> None:
    exponent, mantissa, bias, greatest = MX[name]
    x, chosen = wild(shape[0], math.prod(shape[1:])).view(shape), formats.build(name)
    encoded = chosen.encode(x)
    emax = math.floor(math.log2(greatest))
    expected = ocp(x.numpy(), 32, emax, lambda v: round_to_float(v, exponent, mantissa, bias, greatest))
    assert torch.equal(chosen.decode(encoded), back(expected, x))
    assert encoded.qparams["scale"].dtype == torch.uint8
    assert int(encoded.codes.max()) < 2**chosen.bits


def test_mxint8_is_ocps() -> None:
    x, chosen = wild(20, 100), formats.build("mxint8")
    expected = ocp(x.numpy(), 32, 0, lambda v: np.clip(np.rint(v * 64), -127, 127) / 64)
    encoded = chosen.encode(x)
    assert torch.equal(chosen.decode(encoded), back(expected, x))
    assert encoded.codes.dtype == torch.int8
    assert chosen.decode(Encoded(torch.tensor([[-128]], dtype=torch.int8), {"scale": torch.tensor([[128]])})) == -4


def test_mxfp4_by_hand() -> None:
    chosen = formats.build("mxfp4")
    x = torch.tensor([[6.0, -3.0, 0.25, 0.26, 5.0, 7.9, *[0.0] * 26, 1e-30, 0.0]])
    encoded = chosen.encode(x)
    assert encoded.qparams["scale"].tolist() == [[127, 127 - 100 - 2]]  # 1e-30 lies in the binade of 2**-100
    assert encoded.codes[0, :6].tolist() == [0b0111, 0b1101, 0b0000, 0b0001, 0b0110, 0b0111]
    assert chosen.decode(encoded)[0, :6].tolist() == [6, -3, 0, 0.5, 4, 6]


@pytest.mark.parametrize("name", MX)
def test_the_shared_scale_is_e8m0(name: str) -> None:
    chosen = formats.build(name)
    one = chosen.encode(torch.ones(1, 1)).codes
    scale = torch.arange(256, dtype=torch.uint8).view(256, 1)
    value = chosen.decode(Encoded(one.expand(256, 1), {"scale": scale})).view(-1)
    assert torch.isnan(value[255])
    emax = math.floor(math.log2(MX[name][3]))
    expected = torch.tensor([2.0 ** (k - 127 + emax) for k in range(255)], dtype=torch.float64).float()
    assert torch.equal(value[:255], expected)  # beyond float32's range it is infinite, as a cast would have it
    with pytest.raises(UnsupportedFormat, match=r"scale of .* is NaN"):
        chosen.encode(torch.ones(1, 1), {"scale": torch.tensor([[255]], dtype=torch.uint8)})


def test_e8m0_is_that_of_ml_dtypes() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed; pip install ml_dtypes")
    codes = np.arange(255, dtype=np.uint8)
    theirs = codes.view(ml_dtypes.float8_e8m0fnu).astype(np.float64)
    chosen = formats.build("mxint8")
    ones = torch.full((255, 1), 64, dtype=torch.int8)
    ours = chosen.decode(Encoded(ones, {"scale": torch.from_numpy(codes).view(255, 1)})).double()
    assert torch.equal(ours.view(-1), torch.from_numpy(theirs))


def tiles(x: np.ndarray, side: int) -> np.ndarray:
    """Return for each element the greatest magnitude of its tile."""
    result = np.zeros_like(x)
    for top in range(0, x.shape[0], side):
        for left in range(0, x.shape[1], side):
            place = np.s_[top : top + side, left : left + side]
            result[place] = np.abs(x[place]).max()
    return result


@pytest.mark.parametrize("shape", [(40, 70), (16, 16), (3, 5)])
def test_block_minifloat_reaches_the_greatest_of_its_tile(shape: tuple[int, int]) -> None:
    generator = derive(1, "bm8").torch()
    x = torch.randn(shape, generator=generator) * 8
    greatest = tiles(x.double().numpy(), 16)
    # two exponent bits, five of mantissa: 2 + 30/32 ... the top binade is the one of the tile's greatest magnitude
    unit = 2.0 ** (np.floor(np.log2(greatest)) - 2)
    expected = round_to_float(x.double().numpy() / unit, 2, 5, 1, 4 * (1 + 31 / 32)) * unit
    chosen = formats.build("bm8")
    assert torch.equal(chosen.decode(chosen.encode(x)), torch.from_numpy(expected).float())
    assert chosen.encode(x).qparams["scale"].shape == (-(-shape[0] // 16), -(-shape[1] // 16))


@pytest.mark.parametrize("value", [8.0, 0.08, 0.04, 1e-20, 3e30])
def test_block_minifloat_holds_what_the_published_code_lost(value: float) -> None:
    chosen, broken = formats.build("bm8"), formats.build("compat-bm8")
    x = torch.full((2, 2), value)
    assert chosen.decode(chosen.encode(x))[0, 0].item() == pytest.approx(value, rel=2**-6, abs=0)
    assert broken.decode(broken.encode(x))[0, 0].item() != pytest.approx(value, rel=0.1, abs=0)


def test_log8_rounds_logarithms_and_keeps_zero() -> None:
    chosen = formats.build("log8")
    x = torch.tensor([0.0, 1.0, 1.41, 1.42, -3.0, 2.0**64, 2.0**-62, 2.0**-64, -0.3])
    encoded = chosen.encode(x)
    assert encoded.codes.tolist() == [0, 63, 63, 64, 65 + 128, 127, 1, 0, 61 + 128]
    expected = [0, 1, 1, 2, -4, 2.0**64, 2.0**-62, 0, -0.25]
    assert chosen.decode(encoded).tolist() == expected
    with pytest.raises(UnsupportedFormat, match=r"beyond 2\*\*64"):
        chosen.encode(torch.tensor([1e20]))
    generator = derive(0, "log8").torch()
    many = torch.randn(100_000, generator=generator).double().numpy()
    found = chosen.decode(chosen.encode(torch.from_numpy(many)))
    assert torch.equal(found.double(), torch.from_numpy(np.sign(many) * 2.0 ** np.rint(np.log2(np.abs(many)))))


def test_bl8_ends_at_the_power_of_two_above_its_block() -> None:
    x, chosen = wild(20, 100), formats.build("bl8")
    blocked = blocks(x.numpy(), 16)
    greatest = np.abs(blocked).max(-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        exponent = np.rint(np.log2(np.abs(blocked)))
        top = np.ceil(np.log2(greatest))
        expected = np.where(exponent >= top - 126, np.sign(blocked) * 2.0**exponent, 0)
    assert torch.equal(chosen.decode(chosen.encode(x)), back(expected, x))


def test_nf4_levels_are_the_papers_quantiles() -> None:
    stats = pytest.importorskip("scipy.stats")
    end = (1 - 1 / 32 + 1 - 1 / 30) / 2  # appendix E: the mean of the two outermost probabilities
    above = stats.norm.ppf(np.linspace(end, 0.5, 9)[:-1])
    below = -stats.norm.ppf(np.linspace(end, 0.5, 8)[:-1])
    quantiles = np.sort(np.concatenate([above, below, [0.0]]))
    assert LEVELS.numpy() == pytest.approx(quantiles / quantiles.max(), abs=2e-7)


def test_nf4_takes_the_nearest_level_of_its_block() -> None:
    x, chosen = wild(10, 150), formats.build("nf4")
    encoded = chosen.encode(x)
    blocked = blocks(x.numpy(), 64)
    scale = np.abs(blocked).max(-1, keepdims=True)
    levels = LEVELS.numpy() * np.maximum(scale, 2.0**-126)[..., None]
    nearest = np.abs(blocked[..., None] - levels).argmin(-1)
    assert torch.equal(encoded.codes, back(nearest, x).to(torch.uint8))
    assert encoded.qparams["scale"].shape == (10, 3)
    assert chosen.decode(encoded).abs().max() == x.abs().max()


def test_int8_dynamic_is_onnx() -> None:
    chosen, generator = formats.build("int8-dynamic"), derive(0, "int8-dynamic").torch()
    for shift in (-10.0, 0.0, 0.5, 10.0):
        x = (torch.randn(1000, generator=generator) + shift).double().numpy().astype(np.float32)
        low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
        scale = np.float32((high - low) / 255)
        zero = np.clip(np.rint(-low / np.float64(scale)), 0, 255)
        codes = np.clip(np.rint(x / np.float64(scale)) + zero, 0, 255)
        encoded = chosen.encode(torch.from_numpy(x))
        assert (encoded.qparams["scale"].item(), encoded.qparams["zero_point"].item()) == (scale, zero)
        assert encoded.codes.tolist() == codes.tolist()
        expected = ((codes - zero) * np.float64(scale)).astype(np.float32)
        assert chosen.decode(encoded).tolist() == expected.tolist()


def test_int8_dynamic_gives_each_channel_its_own_zero_point() -> None:
    encoded = formats.build("int8-dynamic:granularity=channel").encode(torch.tensor([[-1.0, 0.0], [0.0, 2.55]]))
    assert encoded.qparams["zero_point"].tolist() == [[255], [0]]
    assert encoded.codes.tolist() == [[0, 255], [0, 255]]


@pytest.mark.parametrize("name", [*BLOCKED, "log8", "int8-dynamic"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_blocks_refuse_what_is_no_number(name: str, bad: float) -> None:
    with pytest.raises(UnsupportedFormat, match="NaN or infinite"):
        formats.build(name).encode(torch.tensor([[1.0, bad]]))


@pytest.mark.parametrize("name", BLOCKED)
def test_encoding_again_under_the_same_scales_changes_nothing(name: str) -> None:
    x, chosen = wild(40, 128), formats.build(name)
    encoded = chosen.encode(x)
    decoded = chosen.decode(encoded)
    again = chosen.encode(decoded, encoded.qparams)
    assert torch.equal(again.codes, encoded.codes)
    assert bits.bit_equal(chosen.decode(again), decoded)
    index = torch.randperm(x.numel(), generator=derive(0, "again").torch())[:500]
    assert bits.bit_equal(chosen.decode_at(encoded, index), decoded.view(-1)[index])


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nf4:block=0", "at least one element"),
        ("bl8:block=-1", "at least one element"),
        ("mxfp4:along=columns", "choose one of row, last"),
        ("mxfp4:element=e9m9", "choose one of"),
        ("bm8:shape=ball", "choose one of group, tile"),
        ("int8-dynamic:granularity=group", "choose one of tensor, channel"),
        ("compat-bm8:block=0", "at least one element"),
        ("compat-fp8-e4m3:bias=1", "takes no options"),
    ],
)
def test_bad_specifications(spec: str, message: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        formats.build(spec)
    assert message in f"{caught.value} {caught.value.hint}"
