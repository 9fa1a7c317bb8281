from __future__ import annotations

import pytest
import torch
from torch import Tensor

from holdfast.errors import InvalidConfig, UnsupportedFormat
from holdfast.hardening.guards.weight_codes import DigestedPages, WeightCode, weight_codes
from holdfast.numerics import bits
from holdfast.seeds import derive

FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
EMBEDDED = ["parity", "mset", "cep:chunks=2", "cep:chunks=4"]


def stored(spec: str, dtype: torch.dtype, count: int = 37) -> tuple[WeightCode, Tensor]:
    values = torch.randn(count, generator=derive(0, "values").torch()).to(dtype)
    code = weight_codes.build(spec)
    return code, code.written(bits.int_view(values), dtype).clone()


def after(code: WeightCode, codes: Tensor, kept: object) -> tuple[Tensor, Tensor]:
    found = code.read(codes, kept)  # type: ignore[arg-type]
    fixed = codes.clone()
    bits.xor_(fixed, found.index, found.mask)
    return fixed, found.right


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("spec", [*EMBEDDED, "secded", "pages:size=64"])
def test_nothing_is_wrong_with_what_was_written(spec: str, dtype: torch.dtype) -> None:
    code, codes = stored(spec, dtype)
    assert len(code.read(codes, code.kept(codes)).index) == 0
    assert torch.equal(code.written(codes, dtype), codes)
    assert (len(code.kept(codes)) == 0) == code.in_place


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("spec", "lost"), [("parity", 1), ("mset", 2), ("cep:chunks=4", 4)])
def test_only_the_last_bits_are_lost(spec: str, lost: int, dtype: torch.dtype) -> None:
    values = torch.randn(500, generator=derive(0, "values").torch()).to(dtype)
    code = weight_codes.build(spec)
    written = code.written(bits.int_view(values), dtype).view(dtype)
    change = ((written - values) / values).abs().max()
    assert 0 < float(change) < 2**lost * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("spec", [*EMBEDDED, "secded", "pages:size=64"])
def test_every_single_flip_is_treated_as_the_code_promises(spec: str, dtype: torch.dtype) -> None:
    code, codes = stored(spec, dtype)
    kept, width = code.kept(codes), bits.bit_width(dtype)
    for bit in range(width):
        flipped = codes.clone()
        place = torch.tensor([(7 * bit) % len(codes)])
        bits.xor_(flipped, place, bits.one_bit(torch.tensor([bit])))
        fixed, right = after(code, flipped, kept)
        if spec == "secded" or (spec == "mset" and bit in (0, 1, width - 2)):
            assert torch.equal(fixed, codes)
            assert right.tolist() == [True]
        elif spec == "mset":
            assert torch.equal(fixed, flipped)  # the other bits are not guarded
        elif spec == "parity":
            assert fixed[place].item() == 0
            assert right.tolist() == [False]
        elif spec.startswith("cep"):
            assert right.tolist() == [False]
            assert abs(float(fixed.view(dtype)[place])) <= max(2.0, abs(float(codes.view(dtype)[place])))
        else:
            assert code.read(flipped, kept).index.tolist() == [int(place) * width // 8 // 64 * 64 * 8 // width]


def test_secded_finds_every_double_flip_of_a_word_and_outlives_its_own_check_bits() -> None:
    code, codes = stored("secded", torch.float32)
    kept = code.kept(codes)
    draw = derive(1, "doubles").numpy()
    for _ in range(100):
        first, second = (int(k) for k in draw.choice(64, 2, replace=False))
        flipped = codes.clone()
        for bit in (first, second):
            bits.xor_(flipped, torch.tensor([4 + bit // 32]), bits.one_bit(torch.tensor([bit % 32])))
        found = code.read(flipped, kept)
        assert found.right.tolist() == [False]
        assert found.index.tolist() == [4]
    for bit in range(8):
        hit = kept.copy()
        hit[3] ^= 1 << bit
        assert len(code.read(codes, hit).index) == 0


def test_mset_corrects_many_flips_at_once() -> None:
    code, codes = stored("mset", torch.float32, 1000)
    flipped = codes ^ (1 << 30)
    fixed, right = after(code, flipped, code.kept(codes))
    assert torch.equal(fixed, codes)
    assert right.all()


def test_what_has_no_bits_to_spare_is_refused() -> None:
    for spec, dtype in [("parity", torch.int8), ("mset", torch.float8_e4m3fn), ("cep:chunks=8", torch.bfloat16)]:
        with pytest.raises(UnsupportedFormat, match="bits to keep a code in"):
            weight_codes.build(spec).written(bits.int_view(torch.zeros(3).to(dtype)), dtype)
    with pytest.raises(InvalidConfig, match="chunks"):
        weight_codes.build("cep:chunks=0")
    with pytest.raises(InvalidConfig, match="64 bytes"):
        DigestedPages(size=10)
