"""Tables of real DRAM modules: the measured numbers of failures, in places that are drawn."""

from __future__ import annotations

import csv
import gzip
import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from holdfast.errors import ArtifactError, InvalidConfig, UnreadableArtifact
from holdfast.execution import Population
from holdfast.execution.plan import describe_fault
from holdfast.faults import DramRetention, DramVoltage
from holdfast.models.site import Site
from holdfast.testing import check_fault

Draw = Callable[..., np.ndarray]
ALPHA = 1e-4
ROWS = "dimm_name,vdd,vendor,error_cacheline_percent\nX1,1.1,X,20.0\nX1,1.2,X,2.5\nX1,1.35,X,0.0\nX2,1.1,X,100.0\n"
COUNTS = ",".join(f"bank{bank}_bit_err_count" for bank in range(8))
HEAD = f"dimm_name,vendor,vdd,temperature(C),refresh_interval(ms),{COUNTS},total_dimm_bit_err_count\n"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    (tmp_path / "lines.csv").write_text(ROWS)
    return tmp_path / "lines.csv"


@pytest.fixture
def leaks(tmp_path: Path) -> Path:
    many = ",".join(str(2**31 * share // 1000) for share in (0, 1, 2, 5, 10, 20, 50, 100))
    more = ",".join(str(2**31 * share // 1000) for share in (0, 3, 2, 5, 10, 20, 50, 100))
    rows = f"X1,X,1.2,70,2048,{many},0\nX1,X,1.2,70,2048,{more},0\nX1,X,1.2,20,2048,{COUNTS.count(',') * '0,'}0,0\n"
    (tmp_path / "leaks.csv").write_text(HEAD + rows)
    return tmp_path / "leaks.csv"


def lines(path: Path, voltage: float = 1.1, dimm: str = "X1", bits: int = 1) -> DramVoltage:
    return DramVoltage(path=str(path), dimm=dimm, voltage=voltage, bits=bits)


@pytest.mark.parametrize(("voltage", "share"), [(1.1, 0.2), (1.2, 0.025)])
@pytest.mark.parametrize("bits", [1, 3, 512])
def test_lines_fail_at_the_measured_share(voltage: float, share: float, bits: int, table: Path, draw: Draw) -> None:
    population = Population((Site("weights", "w", (64 * 20_000,), "int8", 8),))
    line, flips = np.unique(draw(lines(table, voltage, bits=bits), population, 1) // 512, return_counts=True)
    assert stats.binomtest(len(line), 20_000, share).pvalue > ALPHA
    assert (flips == bits).all()


def test_flips_are_anywhere_in_a_line(table: Path, draw: Draw) -> None:
    population = Population((Site("weights", "w", (64 * 200_000,), "int8", 8),))
    place = np.bincount(draw(lines(table), population, 2) % 512, minlength=512)
    assert stats.chisquare(place).pvalue > ALPHA
    small = draw(lines(table, bits=2), population, 3).reshape(-1, 2) % 512
    gap = small[:, 1] - small[:, 0]
    expected = np.histogram(np.repeat(np.arange(1, 512), np.arange(511, 0, -1)), [1, 50, 120, 200, 300, 512])[0]
    assert (
        stats.chisquare(np.histogram(gap, [1, 50, 120, 200, 300, 512])[0], expected / expected.sum() * len(gap)).pvalue
        > ALPHA
    )


def test_a_lower_voltage_adds_lines(table: Path, memory: Population, draw: Draw) -> None:
    found = [set(draw(lines(table, voltage, bits=4), memory, 4).tolist()) for voltage in (1.35, 1.2, 1.1)]
    found.append(set(draw(lines(table, dimm="X2", bits=4), memory, 4).tolist()))
    assert all(low <= high for low, high in itertools.pairwise(found))
    assert found[0] == set()
    assert len(draw(lines(table, dimm="X2", bits=512), memory, 4)) == memory.bits


def test_a_site_does_not_depend_on_the_others(table: Path, memory: Population, draw: Draw) -> None:
    alone = draw(lines(table), Population(memory.sites[1:2]), 5)
    inside = draw(lines(table), memory, 5)
    start, stop = memory.starts[1:3]
    assert np.array_equal(alone + start, inside[(inside >= start) & (inside < stop)])


def test_banks_leak_at_their_own_rates(leaks: Path, draw: Draw) -> None:
    law = DramRetention(path=str(leaks), dimm="X1", voltage=1.2, temperature=70.0, layout="linear/8x512x64")
    population = Population((Site("weights", "w", (8 * 512 * 64,), "int8", 8),))
    found = np.bincount(draw(law, population, 6) // (512 * 64) % 8, minlength=8)
    assert law.rates == pytest.approx((0, 0.002, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1), abs=1e-9)
    for bank in range(8):
        assert stats.binomtest(int(found[bank]), 8 * 512 * 64, law.rates[bank]).pvalue > ALPHA
    cold = DramRetention(path=str(leaks), dimm="X1", voltage=1.2, layout="linear/8x512x64")
    assert len(draw(cold, population, 6)) == 0


def test_the_contracts(table: Path, leaks: Path) -> None:
    check_fault(lines(table, bits=7))
    check_fault(DramRetention(path=str(leaks), dimm="X1", voltage=1.2, temperature=70.0, layout="interleaved/8x4x64"))


def test_the_digest_names_what_was_read(table: Path) -> None:
    law = lines(table)
    first = describe_fault(law)
    assert first["digest"].startswith("sha256:")
    table.write_text(ROWS.replace("20.0", "30.0"))
    assert describe_fault(law) == first
    assert lines(table).digest != first["digest"]
    assert lines(table).rates == (0.3,)


def test_every_module_that_was_measured(shared_data: Path) -> None:
    path = shared_data / "dram-voltage" / "dimm_faulty_cachelines_out.csv.gz"
    with gzip.open(path, "rt") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 212
    for row in rows[::7]:
        law = lines(path, float(row["vdd"]), row["dimm_name"])
        assert 100 * law.rates[0] == pytest.approx(float(row["error_cacheline_percent"]))
    smallest = min(float(row["error_cacheline_percent"]) for row in rows if float(row["error_cacheline_percent"]))
    assert smallest / 100 * 2**25 == pytest.approx(1)  # the size of a module, as the law has it


def test_retention_of_a_real_module(shared_data: Path, draw: Draw) -> None:
    path = shared_data / "dram-voltage" / "retention_time_profile.csv.gz"
    law = DramRetention(path=str(path), dimm="A1", voltage=1.15, temperature=70.0)
    with gzip.open(path, "rt") as stream:
        chosen = {"dimm_name": "A1", "vdd": "1.15", "temperature(C)": "70", "refresh_interval(ms)": "2048"}
        rows = [row for row in csv.DictReader(stream) if chosen.items() <= row.items()]
    total = np.mean([float(row["total_dimm_bit_err_count"]) for row in rows])
    assert sum(law.rates) * 2**31 == pytest.approx(total)
    huge = Population((Site("weights", "w", (2**33,), "int8", 8),))  # four modules
    found = draw(law, huge, 7)
    assert stats.poisson.cdf(len(found), 4 * total) == pytest.approx(0.5, abs=0.4999)
    assert found.max() > 2**35


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        ({"dimm": "X9"}, "nothing was measured at dimm_name = X9", "X1, X2"),
        ({"voltage": 1.15}, "nothing was measured at vdd = 1.15", "1.1, 1.2, 1.35"),
        ({"voltage": float("nan")}, "finite", ""),
        ({"bits": 0}, "number of flips", ""),
        ({"bits": 513}, "number of flips", ""),
    ],
)
def test_what_was_not_measured(options: dict[str, object], message: str, hint: str, table: Path) -> None:
    with pytest.raises(InvalidConfig, match=message) as caught:
        lines(table, **options)  # type: ignore[arg-type]
    assert hint in caught.value.hint


def test_modules_without_a_name_are_not_offered(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(ROWS + ",1.1,X,3.0\n")
    with pytest.raises(InvalidConfig, match="nothing was measured") as caught:
        lines(tmp_path / "t.csv", dimm="X9")
    assert caught.value.hint == "measured: X1, X2"


def test_a_memory_of_other_banks(leaks: Path) -> None:
    with pytest.raises(InvalidConfig, match="8 banks"):
        DramRetention(path=str(leaks), dimm="X1", voltage=1.2, layout="linear/4x8x8")


BAD = {
    "empty": b"",
    "header alone": ROWS.splitlines()[0].encode(),
    "another table": HEAD.encode() + b"1,2,3\n",
    "missing entry": ROWS.replace("X,20.0", "20.0").encode(),
    "extra entry": ROWS.replace("X,20.0", "X,20.0,1").encode(),
    "no number": ROWS.replace("20.0", "many").encode(),
    "not finite": ROWS.replace("20.0", "nan").encode(),
    "more than all": ROWS.replace("20.0", "100.1").encode(),
    "negative": ROWS.replace("20.0", "-1").encode(),
    "no text": bytes(range(128, 256)),
    "null": b"\0" * 50,
    "half a gzip": gzip.compress(ROWS.encode())[:-12],
    "bad gzip": gzip.compress(ROWS.encode())[:20] + b"????" + gzip.compress(ROWS.encode())[24:],
    "bomb": gzip.compress(bytes(2**26 + 1)),
}


@pytest.mark.parametrize("case", BAD)
def test_files_that_are_no_tables(case: str, tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_bytes(BAD[case])
    with pytest.raises(ArtifactError) as caught:
        lines(tmp_path / "bad.csv")
    assert isinstance(caught.value, UnreadableArtifact)
    assert "bad.csv" in str(caught.value)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(UnreadableArtifact):
        lines(tmp_path / "none.csv")
