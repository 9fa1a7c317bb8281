"""What single bits do to numbers, known beforehand, in every stored format; and that flips undo themselves."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import holdfast
from holdfast.errors import InvalidConfig, UnsupportedFormat, UsageError
from holdfast.execution import Flips, Population, faults, inject
from holdfast.execution.injection import applied
from holdfast.faults import BitFlip, Corruption
from holdfast.models import Site, stored
from holdfast.numerics import bits
from holdfast.numerics.formats import format_of_dtype
from holdfast.numerics.packing import byte_masks, pack, unpack
from holdfast.seeds import derive

FLOATS = (
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
)


def struck(value: float, dtype: torch.dtype, what: str) -> Tensor:
    """One stored number, after a corruption of all there is."""
    model = nn.Module()
    model.register_buffer("cell", torch.tensor([value]).to(dtype))
    with inject(model, Corruption(what=what), at="buffers"):
        result = model.cell.clone()
    assert bits.bit_equal(model.cell, torch.tensor([value]).to(dtype))  # put back to the bit
    return result.double()[0]


@pytest.mark.parametrize(
    ("value", "dtype", "bit", "expected"),
    [
        (1.0, torch.float32, 30, math.inf),
        (0.5, torch.float32, 30, 1.7014118346046923e38),
        (2.0, torch.float32, 30, 0.0),
        (1.0, torch.float32, 31, -1.0),
        (1.0, torch.float64, 62, math.inf),
        (1.0, torch.float16, 14, math.inf),
        (1.0, torch.bfloat16, 14, math.inf),
        (1.0, torch.float8_e4m3fn, 6, 256.0),
        (1.0, torch.float8_e5m2, 6, math.inf),
    ],
)
def test_a_flipped_bit_gives_the_known_number(value: float, dtype: torch.dtype, bit: int, expected: float) -> None:
    assert float(struck(value, dtype, f"(bit-flip:bit={bit})")) == expected


@pytest.mark.parametrize(("format", "bit", "expected"), [("int8", 7, -128), ("int8", 0, 1), ("int4", 3, -8)])
def test_integers_are_twos_complement(format: str, bit: int, expected: int) -> None:
    model = nn.Sequential(nn.Linear(1, 1, bias=False))
    nn.init.constant_(model[0].weight, 0.0)
    model = holdfast.quantize(model, format)
    site = holdfast.sites(model)[0]
    assert stored(model, site).codes.item() == 0
    with inject(model, Corruption(what=f"(bit-flip:bit={bit})"), at="weights"):
        assert stored(model, site).codes.item() == expected
    assert stored(model, site).codes.item() == 0


def test_packed_int4_codes_flip_one_nibble() -> None:
    codes = torch.arange(8, dtype=torch.uint8)
    payload = pack(codes, 4)
    index, mask = torch.tensor([3]), torch.tensor([0b1000])
    bits.xor_(payload, *byte_masks(index, mask, 4))
    assert unpack(payload, 4, 8).tolist() == [0, 1, 2, 3 ^ 8, 4, 5, 6, 7]


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_special_values(dtype: torch.dtype) -> None:
    assert math.isnan(struck(1.0, dtype, "nan"))
    assert float(struck(1.5, dtype, "zero")) == 0.0
    assert float(struck(1.0, dtype, "(set:value=-1.75)")) == -1.75
    if dtype == torch.float8_e4m3fn:
        with pytest.raises(UnsupportedFormat, match="no infinity"):
            struck(1.0, dtype, "inf")
    else:
        assert float(struck(1.0, dtype, "(inf:sign=-)")) == -math.inf


def test_an_integer_has_no_nan_and_codebooks_no_arithmetic() -> None:
    model = nn.Sequential(nn.Linear(64, 2, bias=False))
    with (
        pytest.raises(UnsupportedFormat, match="no NaN"),
        inject(holdfast.quantize(model, "int8"), Corruption(what="nan")),
    ):
        pass
    with (
        pytest.raises(UnsupportedFormat, match="no numbers to compute"),
        inject(holdfast.quantize(model, "nf4"), Corruption(what="power-law")),
    ):
        pass


def test_stuck_bits_keep_what_they_hold() -> None:
    assert float(struck(1.0, torch.float32, "(stuck:bit=23,at=1)")) == 1.0  # exponent 127: the bit is one already
    assert float(struck(1.0, torch.float32, "(stuck:bit=23,at=0)")) == 0.5


def test_the_default_is_the_single_bit_flip() -> None:
    population = Population((Site("weights", "a", (7, 3), "fp32", 32), Site("buffers", "b", (5,), "int8", 8)))
    for number in range(50):
        seed = derive(number, "same")
        (ours,), (theirs,) = Corruption().flips(population, seed), BitFlip().flips(population, seed)
        assert ours.site == theirs.site
        assert torch.equal(ours.index, theirs.index)
        assert torch.equal(ours.mask, theirs.mask)


@settings(max_examples=60, deadline=None)
@given(
    dtype=st.sampled_from(FLOATS),
    where=st.sampled_from(["single", "row", "column", "(block:rows=2,columns=2)", "mbu", "(ecc-word:bits=128)"]),
    what=st.sampled_from(["bit-flip", "(bit-flip:bits=3)", "random-bits", "(flip-mask:mask=0x55)"]),
    seed=st.integers(0, 2**32),
)
def test_flips_are_involutions(dtype: torch.dtype, where: str, what: str, seed: int) -> None:
    if where in ("mbu", "(ecc-word:bits=128)") and what.startswith("(flip-mask"):
        where = "single"
    octets = bytearray(derive(seed, "bits").numpy().bytes(12 * dtype.itemsize))
    pattern = torch.frombuffer(octets, dtype=torch.uint8).view(dtype)
    flat = pattern.clone()
    site = Site("buffers", "x", (3, 4), format_of_dtype(dtype), bits.bit_width(dtype))
    (item,) = Corruption(where=where, what=what).flips(Population((site,)), derive(seed, "law"))
    for expected_equal in (False, True):
        bits.xor_(flat, item.index, item.against(bits.int_view(flat)[item.index]))
        assert torch.equal(bits.int_view(flat), bits.int_view(pattern)) is expected_equal


@settings(max_examples=40, deadline=None)
@given(
    what=st.sampled_from(["power-law", "(power-law:opcode=fadd)", "uniform", "nan", "(stuck:at=random)", "zero"]),
    dtype=st.sampled_from(FLOATS),
    seed=st.integers(0, 2**32),
)
def test_whatever_happens_to_stored_values_is_undone(what: str, dtype: torch.dtype, seed: int) -> None:
    model = nn.Module()
    model.register_buffer("cell", torch.linspace(-3, 3, 24).view(4, 6).to(dtype))
    before = copy.deepcopy(model.cell)
    with inject(model, Corruption(where="row", what=what), at="buffers", seed=seed):
        pass
    assert bits.bit_equal(model.cell, before)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("corruption:where=everywhere", "unknown pattern"),
        ("corruption:what=nothing", "unknown value"),
        ("corruption:what=(bit-flip:bit=64)", "number of a bit"),
        ("corruption:what=(bit-flip:bits=0)", "number of bits"),
        ("corruption:what=(bit-flip:bit=3,bits=2)", "one bit"),
        ("corruption:what=(flip-mask:mask=many)", "cannot read the mask"),
        ("corruption:what=(flip-mask:mask=0)", "one to 64 bits"),
        ("corruption:what=(set:value=inf)", "finite"),
        ("corruption:what=(power-law:xmin=1)", "both xmin and alpha"),
        ("corruption:what=(power-law:xmin=1,alpha=1)", "above 1"),
        ("corruption:what=(uniform:low=2)", "nothing lies between"),
        ("corruption:where=(row:share=2)", "share of a region"),
        ("corruption:where=(block:rows=0)", "rows of a block"),
    ],
)
def test_bad_parts_are_refused_when_they_are_written(spec: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        faults.build(spec)


def test_a_value_that_does_not_fit_the_tensor_is_refused_with_its_name() -> None:
    narrow = Population((Site("weights", "w", (4,), "int4", 4),))
    for what, message in (
        ("(bit-flip:bit=5)", "no bit 5"),
        ("(bit-flip:bits=5)", "no 5 bits"),
        ("(flip-mask:mask=16)", "wider"),
    ):
        with pytest.raises(InvalidConfig, match=message):
            Corruption(what=what).flips(narrow, derive(0, "x"))
    with pytest.raises(InvalidConfig, match="whole elements"):
        Corruption(where="mbu", what="(set:value=1)").flips(narrow, derive(0, "x"))
    with pytest.raises(InvalidConfig, match="empty population"):
        Corruption().flips(Population(()), derive(0, "x"))


def test_a_rule_is_one_more_column_of_flips() -> None:
    site = Site("buffers", "cell", (4,), "fp32", 32)
    (item,) = Corruption(where="row", what="(set:value=2)").flips(Population((site,)), derive(0, "x"))
    assert item.touched.tolist() == [2**32 - 1] * 4
    codes = bits.int_view(torch.tensor([1.0, 2.0, -4.0, math.nan])).to(torch.int64)
    assert item.against(codes)[1] == 0  # already so
    joined = Flips.joined([item, Flips(site, torch.tensor([0]), torch.tensor([1]))])
    assert torch.equal(joined.against(torch.cat([codes, codes[:1]]))[:4], item.against(codes))
    assert joined.against(torch.cat([codes, codes[:1]]))[4] == 1


def test_rules_on_stored_codes_of_a_lens() -> None:
    model = nn.Sequential(nn.Linear(4, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.27, 0.5, -0.3, 0.0]]))
    model = holdfast.quantize(model, "int8")
    site = holdfast.sites(model)[0]
    before = stored(model, site).codes.clone()
    item = Corruption(where="row", what="(set:value=-5)").flips(Population((site,)), derive(0, "x"))
    with applied(model, item):
        assert stored(model, site).codes.flatten().tolist() == [-5] * 4
    assert torch.equal(stored(model, site).codes, before)
