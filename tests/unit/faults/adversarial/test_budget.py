"""The ledger never lets an attack overspend, and rows are those of a packed linear memory."""

from __future__ import annotations

import pytest
import torch

from holdfast.errors import InvalidConfig
from holdfast.faults.adversarial import Budget, LinearMemory
from holdfast.faults.adversarial.changes import flips_of
from holdfast.faults.adversarial.ledger import Ledger
from holdfast.models import build_architecture, sites
from holdfast.models.site import Site
from holdfast.quantization import quantize

A, B = Site("weights", "a", (10,), "int4", 4), Site("weights", "b", (6,), "fp32", 32)
MEMORY = LinearMemory.of([A, B], row_bytes=8)  # a fills 40 bits, b bits 40 to 232; rows of 64 bits


def test_rows_are_the_bit_addresses_of_a_packed_memory_divided() -> None:
    assert MEMORY.starts == {A: 0, B: 40}
    assert [MEMORY.row(B, 0, bit) for bit in (0, 23, 24, 31)] == [0, 0, 1, 1]  # an element across two rows
    flips = [flips_of(A, [(9, 3)]), flips_of(B, [(0, 23), (0, 24), (5, 31)])]
    assert MEMORY.rows_of(flips) == {0, 1, 231 // 64}
    assert MEMORY.rows(B, torch.arange(6), torch.tensor(0)).tolist() == [(40 + 32 * k) // 64 for k in range(6)]


def test_the_memory_of_a_model_holds_every_stored_bit_once() -> None:
    model = quantize(build_architecture("digits-cnn:channels=4", seed=0), "int4", at="weights:conv*")
    memory = LinearMemory.of_model(model, 8192)
    known = [site for site in sites(model) if site.kind in ("weights", "buffers")]
    ends = [memory.starts[site] + site.population for site in known]
    assert [memory.starts[site] for site in known] == [0, *ends[:-1]]


def test_bits_rows_and_weights_are_each_limited() -> None:
    ledger = Ledger(Budget(bits=3, rows=1, row_bytes=8), MEMORY)
    ledger.spend(A, [(0, 3)])
    assert not ledger.affords(A, 0, 3)  # the same bit
    assert not ledger.affords(A, 0, 2)  # the same weight
    assert not ledger.affords(B, 3, 0)  # another row
    assert ledger.choose(A, [(0, 1), (4, 0), (4, 1), (5, 0), (6, 0)], 5) == [(4, 0), (5, 0)]
    assert ledger.bits_left == 2  # choosing spends nothing
    ledger.spend(A, [(4, 0), (5, 0)])
    assert not ledger.affords(A, 7, 0)
    with pytest.raises(InvalidConfig, match="beyond the budget"):
        ledger.spend(A, [(7, 0)])


@pytest.mark.parametrize("one_per_weight", [True, False])
def test_what_is_open_is_what_is_afforded(one_per_weight: bool) -> None:
    ledger = Ledger(Budget(bits=4, rows=2, row_bytes=8, one_per_weight=one_per_weight), MEMORY)
    for places in ([], [(0, 3)], [(3, 5)], [(3, 4), (3, 30)] if not one_per_weight else [(4, 1)]):
        ledger.spend(B, places)
        expected = [[ledger.affords(B, e, b) for b in range(B.bits)] for e in range(B.numel)]
        assert ledger.open(B, torch.arange(B.numel)).tolist() == expected
        assert ledger.open(B, torch.tensor([3, 0])).tolist() == [expected[3], expected[0]]


def test_reachable_elements_are_those_with_a_bit_in_an_open_row() -> None:
    for site in (A, B):
        for rows in range(1, 5):
            ledger = Ledger(Budget(bits=8, rows=1, row_bytes=8), MEMORY)
            assert ledger.reachable(site) is None
            ledger.rows = {rows - 1}
            expected = [
                e for e in range(site.numel) if any(MEMORY.row(site, e, b) == rows - 1 for b in range(site.bits))
            ]
            assert ledger.reachable(site).tolist() == expected


def test_a_budget_names_the_limit_that_was_broken() -> None:
    flips = [flips_of(A, [(0, 0), (0, 1), (1, 0)]), flips_of(B, [(5, 0)])]
    assert Budget(bits=3).exceeded(MEMORY, flips) == "4 bits of 3"
    assert Budget(bits=4, rows=1, row_bytes=8, one_per_weight=False).exceeded(MEMORY, flips) == "2 rows of 1"
    assert Budget(bits=4).exceeded(MEMORY, flips) == "two bits of one weight"
    assert Budget(bits=4, rows=2, row_bytes=8, one_per_weight=False).exceeded(MEMORY, flips) == ""


@pytest.mark.parametrize("wrong", [{"bits": 0}, {"bits": 1, "rows": 0}, {"bits": 1, "row_bytes": 0}])
def test_an_empty_budget_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(InvalidConfig, match="at least one"):
        Budget(**wrong)
