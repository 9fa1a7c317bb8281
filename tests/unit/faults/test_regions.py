"""Rows, columns and banks that fail or are weak as a whole."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from holdfast.errors import InvalidConfig
from holdfast.execution import Population
from holdfast.faults import LineFailures, LineRates, RegionalErrors
from holdfast.faults.layout import layout_of
from holdfast.faults.regions import Line, cells_of, length, line_of
from holdfast.models.site import Site

Draw = Callable[..., np.ndarray]
ALPHA = 1e-4
LAYOUT = "tiled/4x128x64/height=4/width=16/offset=77"
LINES: tuple[Line, ...] = ("row", "column", "bank")


def counts(found: np.ndarray, line: Line, layout: str = LAYOUT) -> np.ndarray:
    """Return how many of the addresses lie in each line of the memory, by the line's own coordinates."""
    form = layout_of(layout)
    die, cell = np.divmod(form.cells(found), form.die)
    bank, cell = np.divmod(cell, form.bank)
    row, column = np.divmod(cell, form.columns)
    number = {"row": row, "column": column, "bank": 0 * row}[line]
    per_bank = {"row": form.rows, "column": form.columns, "bank": 1}[line]
    return np.bincount((die * form.banks + bank) * per_bank + number)


@pytest.mark.parametrize("line", LINES)
def test_lines_and_cells_are_one_numbering(line: Line) -> None:
    layout = layout_of("linear/3x4x8")
    cells = np.arange(2 * layout.die)
    number = line_of(layout, line, cells)
    assert (np.bincount(number) == length(layout, line)).all()
    again = cells_of(layout, line, np.arange(number.max() + 1)[:, None], np.arange(length(layout, line)))
    assert np.array_equal(np.sort(again.ravel()), cells)
    assert np.array_equal(line_of(layout, line, again), np.broadcast_to(np.arange(len(again))[:, None], again.shape))


@pytest.mark.parametrize(("line", "rate"), [("row", 0.02), ("column", 0.05), ("bank", 0.2)])
def test_lines_fail_as_often_as_they_should_and_whole(line: Line, rate: float, memory: Population, draw: Draw) -> None:
    found = draw(LineFailures(rate=rate, line=line, share=1.0, layout=LAYOUT), memory, 1)
    hit, everything = counts(found, line), counts(np.arange(memory.bits), line)
    hit = np.pad(hit, (0, len(everything) - len(hit)))
    assert set(np.unique(hit[hit > 0] == everything[hit > 0])) == {True}
    assert stats.binomtest(int((hit > 0).sum()), int((everything > 0).sum()), rate).pvalue > ALPHA


def test_a_small_population_in_a_large_memory(draw: Draw, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bank of 2**29 cells that fails under a few bits costs these bits, and flips what its enumeration would."""
    small = Population((Site("weights", "w", (500,), "int8", 8),))
    huge = LineFailures(rate=1.0, line="bank", share=1.0, layout="linear/8x65536x8192/offset=99")
    assert len(draw(huge, small, 1)) == small.bits
    law = LineFailures(rate=0.4, line="column", layout="interleaved/4x256x64/stripe=16")
    few = draw(law, small, 2)
    monkeypatch.setattr(
        "holdfast.faults.regions._whole",
        lambda layout, line, number, bits: cells_of(
            layout, line, number[:, None], np.arange(length(layout, line))
        ).ravel(),
    )
    assert np.array_equal(draw(law, small, 2), few)
    assert 0 < len(few) < small.bits


def test_a_failing_line_reads_noise(memory: Population, draw: Draw) -> None:
    found = draw(LineFailures(rate=0.05, layout=LAYOUT), memory, 2)
    hit = counts(found, "row")
    assert stats.binomtest(int(hit.sum()), 64 * int((hit > 0).sum()), 0.5).pvalue > ALPHA
    spread = hit[hit > 0][1:-1]
    assert ALPHA < stats.chi2.cdf(((spread - 32) ** 2 / 16).sum(), len(spread)) < 1 - ALPHA


def test_more_lines_and_larger_shares_are_supersets(memory: Population, draw: Draw) -> None:
    ladder = [(0.0, 0.5), (0.001, 0.1), (0.01, 0.1), (0.01, 0.7), (0.3, 0.7), (1.0, 0.7), (1.0, 1.0)]
    found = [set(draw(LineFailures(rate=r, share=s, layout=LAYOUT), memory, 3).tolist()) for r, s in ladder]
    assert all(low <= high for low, high in itertools.pairwise(found))
    assert found[0] == set()
    assert len(found[-1]) == memory.bits


@pytest.mark.parametrize("line", LINES)
def test_weak_regions_have_so_many_times_the_errors(line: Line, memory: Population, draw: Draw) -> None:
    layout = "linear/8x64x64" if line == "bank" else "linear/1x512x512"
    law = RegionalErrors(rate=0.01, line=line, weak=0.2, factor=10, layout=layout)
    hit = counts(draw(law, memory, 4), line, layout).astype(float)
    sizes = counts(np.arange(memory.bits), line, layout)
    strong, weak = 0.01 / 2.8, 0.1 / 2.8
    is_weak = hit / sizes > (strong + weak) / 2
    assert stats.binomtest(int(is_weak.sum()), len(sizes), 0.2).pvalue > ALPHA
    assert stats.binomtest(int(hit[~is_weak].sum()), int(sizes[~is_weak].sum()), strong).pvalue > ALPHA
    assert stats.binomtest(int(hit[is_weak].sum()), int(sizes[is_weak].sum()), weak).pvalue > ALPHA


def test_the_average_over_chips_is_the_rate(draw: Draw) -> None:
    small = Population((Site("weights", "w", (4096,), "int8", 8),))
    law = RegionalErrors(rate=0.02, line="row", weak=0.3, factor=5, layout="linear/1x64x64")
    rates = np.array([len(draw(law, small, seed)) for seed in range(400)]) / small.bits
    assert abs(rates.mean() - 0.02) < 4 * rates.std(ddof=1) / 20


def test_errors_of_a_lower_rate_are_a_subset(memory: Population, draw: Draw) -> None:
    rates = (0.0, 1e-5, 0.001, 0.002, 0.05)
    found = [set(draw(RegionalErrors(rate=rate, layout=LAYOUT), memory, 5).tolist()) for rate in rates]
    assert all(low <= high for low, high in itertools.pairwise(found))
    assert found[0] == set()


def test_a_factor_of_one_has_no_structure(memory: Population, draw: Draw) -> None:
    found = draw(RegionalErrors(rate=0.01, factor=1.0), memory, 6)
    assert stats.binomtest(len(found), memory.bits, 0.01).pvalue > ALPHA
    assert len(draw(RegionalErrors(rate=1.0, factor=1.0), memory, 6)) == memory.bits


@pytest.mark.parametrize("line", LINES)
def test_each_line_has_its_rate(line: Line, memory: Population, draw: Draw) -> None:
    rates = (0.001, 0.0, 0.02)
    found = draw(LineRates(rates="0.001/0/0.02", line=line, layout=LAYOUT), memory, 8)
    hit, sizes = counts(found, line), counts(np.arange(memory.bits), line)
    hit = np.pad(hit, (0, len(sizes) - len(hit)))
    for place, rate in enumerate(rates):
        assert stats.binomtest(int(hit[place::3].sum()), int(sizes[place::3].sum()), rate).pvalue > ALPHA


def test_higher_rates_of_lines_are_supersets(memory: Population, draw: Draw) -> None:
    texts = ("0/0", "0/0.001", "0.01/0.001", "0.01/1", "1/1")
    found = [set(draw(LineRates(rates=text, line="column", layout=LAYOUT), memory, 9).tolist()) for text in texts]
    assert all(low <= high for low, high in itertools.pairwise(found))
    assert found[0] == set()
    assert len(found[-1]) == memory.bits


@pytest.mark.parametrize("rates", ["", "0.1/", "much", "0.1/nan", "2", "-1", None])
def test_bad_rates_of_lines(rates: str) -> None:
    with pytest.raises(InvalidConfig):
        LineRates(rates=rates)


@pytest.mark.parametrize(
    "law",
    [
        LineRates(rates="1e-9/0", line="bank", layout="linear/16x8192x1024"),
        LineFailures(rate=1e-7, line="row", share=0.5, layout="interleaved/16x8192x1024/stripe=64"),
        RegionalErrors(rate=1e-9, line="row", weak=1e-6, layout="multiplexed/16x8192x1024/word=32"),
    ],
)
def test_addresses_beyond_2_to_the_33(law: LineFailures | LineRates | RegionalErrors, draw: Draw) -> None:
    found = draw(law, Population((Site("weights", "huge", (2**34,), "int8", 8),)), 7)
    assert 20 < len(found) < 40_000
    assert found.max() > 2**35


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate": 2.0}, "between 0 and 1"),
        ({"rate": float("nan")}, "between 0 and 1"),
        ({"line": "diagonal"}, "no lines called"),
        ({"layout": "linear/3"}, "cannot read"),
    ],
)
@pytest.mark.parametrize("law", [LineFailures, RegionalErrors])
def test_bad_parameters(law: type, options: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidConfig, match=message):
        law(**({"rate": 0.1} | options))


@pytest.mark.parametrize("options", [{"factor": -1.0}, {"factor": float("nan")}, {"rate": 0.5}, {"weak": 1.5}])
def test_impossible_weakness(options: dict[str, float]) -> None:
    with pytest.raises(InvalidConfig):
        RegionalErrors(**({"rate": 0.01, "factor": 20.0} | options))
