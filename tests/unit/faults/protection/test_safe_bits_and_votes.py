"""Bits that do not fail, by field and format; and the majority of three copies."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from holdfast.errors import InvalidConfig, UnsupportedFormat
from holdfast.execution.condition import Population
from holdfast.faults import BitErrors, Protected
from holdfast.faults.protection import ProtectBits, Voting, report
from holdfast.faults.protection.protocol import Raw
from holdfast.models.site import Site
from holdfast.seeds import derive


def site_of(format: str, bits: int, numel: int = 1000) -> Site:
    return Site("weights", "w", (numel,), format, bits)


@pytest.mark.parametrize(
    ("format", "bits", "field", "expected"),
    [
        ("fp32", 32, "exponent", range(23, 31)),
        ("fp32", 32, "exponent-1", [30]),
        ("fp32", 32, "sign+exponent-2", [29, 30, 31]),
        ("fp32", 32, "mantissa-3", [20, 21, 22]),
        ("bf16", 16, "exponent", range(7, 15)),
        ("fp16", 16, "exponent", range(10, 15)),
        ("fp8-e4m3fn", 8, "exponent+sign", range(3, 8)),
        ("fp8-e5m2", 8, "mantissa", [0, 1]),
        ("int8", 8, "sign", [7]),
        ("int8", 8, "msb-2", [6, 7]),
        ("int8", 8, "msb", [7]),
        ("rquant4", 4, "magnitude-2", [2, 3]),
        ("rquant4", 4, "lsb-3", [0, 1, 2]),
        ("fp64", 64, "msb-64", range(64)),
    ],
)
def test_fields_name_the_bits_of_each_format(format: str, bits: int, field: str, expected: list[int]) -> None:
    assert ProtectBits(field=field).safe(site_of(format, bits)) == tuple(expected)


@pytest.mark.parametrize("field", ["exponent", "sign", "msb-3+lsb"])
def test_only_the_other_bits_fail_and_they_fail_as_before(field: str) -> None:
    site = site_of("bf16", 16)
    safe = sum(1 << bit for bit in ProtectBits(field=field).safe(site))
    (bare,) = BitErrors(rate=0.1).flips(Population((site,)), derive(1))
    (left,) = Protected(fault="bit-errors:rate=0.1", by=ProtectBits(field=field)).flips(Population((site,)), derive(1))
    expected = {int(k): int(mask) & ~safe for k, mask in zip(bare.index, bare.mask, strict=True) if int(mask) & ~safe}
    assert dict(zip(left.index.tolist(), left.mask.tolist(), strict=True)) == expected


def test_nothing_fails_where_every_bit_is_safe() -> None:
    fault = Protected(fault=BitErrors(rate=1.0), by=ProtectBits(field="msb-8"))
    assert fault.flips(Population((site_of("int8", 8),)), derive(0)) == []


@pytest.mark.parametrize(
    ("format", "bits", "field"), [("int8", 8, "exponent"), ("rquant8", 8, "sign"), ("int4", 4, "msb-5")]
)
def test_a_field_that_a_format_lacks_is_refused(format: str, bits: int, field: str) -> None:
    with pytest.raises(UnsupportedFormat, match=field):
        ProtectBits(field=field).safe(site_of(format, bits))


@pytest.mark.parametrize("field", ["", "msb-0", "sign+", "exponent2", "7"])
def test_what_names_no_bits_is_refused(field: str) -> None:
    with pytest.raises(InvalidConfig, match="names no bits"):
        ProtectBits(field=field)


def test_safe_bits_are_a_cost_and_the_rest_is_expected() -> None:
    floats = Population((site_of("fp32", 32, 40_000),))
    found = report(Protected(fault=BitErrors(rate=0.01), by="protect-bits:field=exponent"), floats, chips=3)
    assert found.cost.safe_bits == 8 * 40_000
    assert found.memory_overhead == 0
    for name in ("failed", "residual"):
        share, expected = getattr(found, name), found.expected_rate(name)
        assert expected is not None
        assert share.low < expected < share.high
    assert found.expected_rate("residual") == pytest.approx(0.01 * 24 / 32)


def test_the_vote_of_each_bit() -> None:
    """All eight cases of three copies, one bit each."""
    site = Site("weights", "w", (1,), "int8", 8)
    data = [case for case in range(8) if case & 1]
    check = [case for case in range(8) if case & 2] + [8 + case for case in range(8) if case & 4]
    decoded = Voting().decode(site, Raw(data=np.array(data), check=np.array(check), codes=lambda: torch.zeros(0)))
    assert decoded.flips is not None
    assert int(decoded.flips.mask[0]) == sum(1 << case for case in range(8) if case.bit_count() >= 2)
    assert decoded.tally.residual == 4


def test_the_copies_are_the_codes() -> None:
    site, codes = site_of("int8", 8, 5), torch.arange(5, dtype=torch.int8)
    check = Voting().check_site(site)
    assert Voting().check_codes(site, codes, torch.arange(check.numel)).tolist() == [0, 1, 2, 3, 4] * 2


@pytest.mark.parametrize("safe", ["fail", "safe"])
def test_votes_leave_what_theory_says(safe: str) -> None:
    population = Population((site_of("int8", 8, 400_000),))
    found = report(Protected(fault=BitErrors(rate=0.02), by="voting", check_bits=safe), population)
    expected = 3 * 0.02**2 - 2 * 0.02**3 if safe == "fail" else 0.0
    assert found.expected_rate("residual") == pytest.approx(expected)
    assert found.residual.low <= expected <= found.residual.high
    assert found.memory_overhead == 2
