"""Error maps: real chips and maps of one's own lie under a population exactly, and bad files are refused."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from holdfast.errors import ArtifactError, InvalidConfig, UnreadableArtifact, UnsupportedVersion
from holdfast.execution import Population
from holdfast.execution.plan import describe_fault
from holdfast.faults import ErrorMap, ErrorMapErrors, read_error_map, write_error_map
from holdfast.faults.layout import layout_of
from holdfast.models.site import Site
from holdfast.testing import check_fault

Draw = Callable[..., np.ndarray]
SHAPE = (2, 6, 8)  # 96 cells
CELLS = np.array([0, 5, 17, 40, 63, 95])
WAYS = np.array([0, 1, -1, 1, 0, -1], np.int8)
VOLTS = np.array([0.6, 0.5, 0.5, 0.6, 0.55, 0.5])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_error_map(tmp_path / "chip.npz", ErrorMap(SHAPE, CELLS, WAYS, VOLTS))
    return tmp_path / "chip.npz"


def law(path: Path, **options: object) -> ErrorMapErrors:
    return ErrorMapErrors(path=str(path), **options)  # type: ignore[arg-type]


def bits(draw: Draw, fault: ErrorMapErrors, population: Population, seed: int = 0) -> dict[int, int]:
    """Return direction by address: 0 flips, 1 rises, -1 falls."""
    columns = {0: "mask", 1: "rise", -1: "fall"}
    return {int(at): way for way, name in columns.items() for at in draw(fault, population, seed, name)}


def test_what_was_written_is_read(path: Path) -> None:
    found, digest = read_error_map(path)
    assert found.shape == SHAPE
    assert [found.address.tolist(), found.direction.tolist(), found.voltage.tolist()] == [
        CELLS.tolist(),
        WAYS.tolist(),
        VOLTS.tolist(),
    ]
    assert found.voltages == (0.6, 0.55, 0.5)
    assert digest.startswith("sha256:")


def test_the_map_lies_under_the_population_again_and_again(path: Path, memory: Population, draw: Draw) -> None:
    expected = {
        die * 96 + int(cell) - 10: int(way)
        for die in range(memory.bits // 96 + 2)
        for cell, way in zip(CELLS, WAYS, strict=True)
        if 0 <= die * 96 + cell - 10 < memory.bits
    }
    assert bits(draw, law(path, offset=10), memory) == expected


@pytest.mark.parametrize(
    "layout", ["tiled/2x6x8/height=3/width=4", "interleaved/2x6x8/stripe=4", "ecc/2x6x8/data=4/check=2"]
)
def test_another_layout_of_the_same_memory(layout: str, path: Path, draw: Draw) -> None:
    population = Population((Site("weights", "w", (50,), "int4", 4),))
    cells = layout_of(f"{layout}/offset=3").cells(np.arange(200)) % 96
    way = dict(zip(CELLS.tolist(), WAYS.tolist(), strict=True))
    expected = {bit: way[cell] for bit, cell in enumerate(cells.tolist()) if cell in way}
    assert bits(draw, law(path, offset=3, layout=layout), population) == expected


def test_a_lower_voltage_adds_errors(path: Path, memory: Population, draw: Draw) -> None:
    high, middle, low = (bits(draw, law(path, offset=0, voltage=voltage), memory) for voltage in (0.6, 0.55, 0.5))
    assert high.items() < middle.items() < low.items() == bits(draw, law(path, offset=0), memory).items()


def test_seeds_are_offsets(path: Path, draw: Draw) -> None:
    population = Population((Site("weights", "w", (12,), "int8", 8),))
    found = [bits(draw, law(path), population, seed) for seed in range(400)]
    fixed = [bits(draw, law(path, offset=offset), population) for offset in range(96)]
    counts = [sum(one == other for one in found) for other in fixed]
    assert sum(counts) == 400
    assert stats.chisquare(counts).pvalue > 1e-4


def test_the_contract(path: Path) -> None:
    check_fault(law(path))
    check_fault(law(path, offset=95, voltage=0.5, layout="multiplexed/2x6x8/word=4"))


def test_the_digest_names_what_was_read(path: Path) -> None:
    fault = law(path, voltage=0.5)
    first = describe_fault(fault)
    assert first["digest"] == fault.digest == read_error_map(path)[1]
    write_error_map(path, ErrorMap(SHAPE, CELLS[:1], WAYS[:1], VOLTS[:1]))
    assert describe_fault(fault) == first
    assert law(path).digest != fault.digest
    assert first == {"name": "error-map", "path": str(path), "voltage": 0.5, "offset": None} | {
        "layout": "linear",
        "digest": fault.digest,
    }


def test_addresses_beyond_2_to_the_33(tmp_path: Path, draw: Draw) -> None:
    cell = np.array([2**35 + 1])
    write_error_map(tmp_path / "big.npz", ErrorMap((8, 2**16, 2**17), cell, np.zeros(1, np.int8), np.zeros(1)))
    huge = Population((Site("weights", "w", (2**34,), "int8", 8),))
    assert draw(law(tmp_path / "big.npz", offset=7), huge).tolist() == [2**35 - 6, 2**35 - 6 + 2**36]


def test_block_rams_of_a_real_chip(shared_data: Path, draw: Draw) -> None:
    folder = shared_data / "bram-undervolting"
    population = Population((Site("weights", "w", (7_290_880 // 8,), "int8", 8),))
    ladder = [set(draw(law(folder, voltage=volt, offset=0), population).tolist()) for volt in (0.59, 0.57, 0.55, 0.53)]
    assert [len(found) for found in ladder] == [1, 13, 126, 1137]
    for volt, found in zip((0.59, 0.57, 0.55, 0.53), ladder, strict=True):
        raw = np.load(folder / f"flips_{volt}V.npz")["cell_index"]
        assert found == set(raw.tolist())
    blocks = np.bincount(np.array(sorted(ladder[-1])) // 2**14, minlength=445)
    assert np.sort(blocks)[::-1][:21].sum() >= 1137 / 2  # the errors cluster, as the README of the data says
    assert read_error_map(folder / "flips_0.53V.npz")[0].shape == (445, 1024, 16)
    check_fault(law(folder, voltage=0.53))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"voltage": 0.7}, "no errors at 0.7 V"),
        ({"voltage": float("nan")}, "finite"),
        ({"offset": -1}, "offset"),
        ({"offset": 96}, "offset"),
        ({"layout": "linear/1x512x64"}, "2x6x8"),
        ({"layout": "tiled"}, "does not divide"),
        ({"layout": "linear/2x6x8x1"}, "cannot read"),
    ],
)
def test_a_map_that_does_not_fit(options: dict[str, object], message: str, path: Path) -> None:
    with pytest.raises(InvalidConfig, match=message) as caught:
        law(path, **options)
    assert caught.value.hint or "whole number" in str(caught.value) or "finite" in str(caught.value)


def archive(path: Path, **arrays: object) -> Path:
    good = {"version": np.int64(1), "shape": np.array(SHAPE), "address": CELLS, "direction": WAYS, "voltage": VOLTS}
    np.savez(path, **{name: value for name, value in (good | arrays).items() if value is not None})  # type: ignore[arg-type]
    return path


BAD: dict[str, dict[str, object]] = {
    "missing array": {"voltage": None},
    "another array": {"extra": np.zeros(1)},
    "float addresses": {"address": CELLS.astype(float)},
    "narrow addresses": {"address": CELLS.astype(np.int32)},
    "descending": {"address": CELLS[::-1].copy()},
    "twice": {"address": np.array([0, 5, 5, 40, 63, 95])},
    "outside": {"address": np.array([0, 5, 17, 40, 63, 96])},
    "negative": {"address": np.array([-1, 5, 17, 40, 63, 95])},
    "lengths": {"direction": WAYS[:-1]},
    "way": {"direction": np.full(6, 2, np.int8)},
    "nan": {"voltage": np.full(6, np.nan)},
    "two shapes": {"shape": np.array([2, 6])},
    "empty shape": {"shape": np.array([2, 0, 8])},
    "vast": {"shape": np.array([2**40, 2**40, 2**40])},
    "objects": {"address": np.array([{}] * 6, object)},
    "text": {"version": np.array("one")},
}


@pytest.mark.parametrize("case", BAD)
def test_files_that_are_no_maps(case: str, tmp_path: Path) -> None:
    path = archive(tmp_path / "bad.npz", **BAD[case])
    with pytest.raises(UnreadableArtifact) as caught:
        read_error_map(path)
    assert "docs/faults.md" in caught.value.hint


def test_a_later_version(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedVersion, match="version 2"):
        read_error_map(archive(tmp_path / "new.npz", version=np.int64(2)))


def test_damaged_files(path: Path, tmp_path: Path) -> None:
    whole = path.read_bytes()
    generator = np.random.default_rng(0)
    for length in range(0, len(whole), 61):
        (tmp_path / "cut.npz").write_bytes(whole[:length])
        with pytest.raises(ArtifactError):
            read_error_map(tmp_path / "cut.npz")
    for _ in range(150):
        octets = bytearray(whole)
        octets[int(generator.integers(len(octets)))] ^= 1 << int(generator.integers(8))
        (tmp_path / "hit.npz").write_bytes(octets)
        try:
            found, _ = read_error_map(tmp_path / "hit.npz")
        except ArtifactError:
            continue
        assert np.array_equal(found.address, CELLS)  # only a byte that means nothing was hit


def test_a_header_cannot_make_it_allocate(tmp_path: Path) -> None:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<i8", "fortran_order": False, "shape": (2**45,)})
    archive(tmp_path / "good.npz")
    with zipfile.ZipFile(tmp_path / "good.npz") as good, zipfile.ZipFile(tmp_path / "huge.npz", "w") as bad:
        for name in good.namelist():
            bad.writestr(name, stream.getvalue() if name == "address.npy" else good.read(name))
    with pytest.raises(UnreadableArtifact, match="as long as its header"):
        read_error_map(tmp_path / "huge.npz")


def test_an_archive_cannot_claim_more_than_the_limit(tmp_path: Path) -> None:
    path = archive(tmp_path / "bomb.npz")
    octets = bytearray(path.read_bytes())
    entry = octets.index(b"PK\x01\x02")  # the size of the first member in the central directory
    octets[entry + 24 : entry + 28] = struct.pack("<I", 2**31)
    path.write_bytes(octets)
    with pytest.raises(UnreadableArtifact, match="bytes long"):
        read_error_map(path)


def test_arrays_cannot_claim_more_than_the_limit_together(tmp_path: Path) -> None:
    path = archive(tmp_path / "bomb.npz")
    octets = bytearray(path.read_bytes())
    entry = octets.find(b"PK\x01\x02")
    while entry >= 0:
        octets[entry + 24 : entry + 28] = struct.pack("<I", 2**27)  # each is half of what one may have
        entry = octets.find(b"PK\x01\x02", entry + 1)
    path.write_bytes(octets)
    with pytest.raises(UnreadableArtifact, match="bytes long together"):
        read_error_map(path)


def test_no_file_and_no_maps(tmp_path: Path, path: Path) -> None:
    with pytest.raises(UnreadableArtifact):
        law(tmp_path / "none.npz")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UnreadableArtifact, match="holds no error maps"):
        law(tmp_path / "empty")
    archive(tmp_path / "second.npz")
    with pytest.raises(InvalidConfig, match="2 error maps"):
        law(tmp_path)
