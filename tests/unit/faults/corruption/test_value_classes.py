"""Values from measured classes: the mixture that was written, and no other file."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from holdfast.errors import InvalidConfig, UnreadableArtifact, UnsupportedFormat, UnsupportedVersion
from holdfast.execution import Population, describe_fault, faults
from holdfast.faults import Corruption
from holdfast.faults.corruption import Histogram, Region, read_value_classes
from holdfast.models import Site
from holdfast.numerics import bits
from holdfast.seeds import derive
from holdfast.testing import check_fault

GOOD = {
    "type": "holdfast.value-classes/v1",
    "source": "made up for this test",
    "of": "value",
    "tensors": [
        {"weight": 3, "elements": {"in-range": 1.0}},
        {"weight": 1, "elements": {"in-range": 0.5, "nan": 0.3, "zero": 0.2}},
    ],
    "histograms": {"in-range": [[-2.0, -1.0, 1], [1.0, 5.0, 3]]},
}
WIDE = Site("activations", "x", (20_000,), "fp32", 32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "classes.json"
    file.write_text(json.dumps(GOOD))
    return file


def after(value: Histogram, site: Site, held: float, seed: int) -> torch.Tensor:
    item = value.changes(site, Region(np.arange(site.numel)), derive(seed, "x"))
    before = torch.full((site.numel,), held)
    codes = bits.int_view(before)[item.index].to(torch.int64)
    bits.xor_(before, item.index, item.against(codes))
    return before


def test_tensors_are_mixed_and_their_elements_too(path: Path) -> None:
    law, kinds = Histogram(path=str(path)), []
    for seed in range(60):
        found = after(law, Site("activations", "x", (50,), "fp32", 32), 7.0, seed)
        kinds.append(bool(torch.isnan(found).any()))
    assert abs(sum(kinds) - 15) < 4 * math.sqrt(60 * 0.25 * 0.75)
    mixed = next(found for seed in range(60) if torch.isnan(found := after(law, WIDE, 7.0, seed)).any())
    for share, found in ((0.3, torch.isnan(mixed)), (0.2, mixed == 0), (0.125, (mixed >= -2) & (mixed <= -1))):
        assert abs(int(found.sum()) - 20_000 * share) < 5 * math.sqrt(20_000 * share * (1 - share))


@pytest.mark.parametrize(("of", "low", "high"), [("ratio", 10.0, 50.0), ("difference", 11.0, 15.0)])
def test_ratios_and_differences_start_from_the_right_value(path: Path, of: str, low: float, high: float) -> None:
    path.write_text(json.dumps(GOOD | {"of": of, "tensors": [{"weight": 1, "elements": {"in-range": 1}}]}))
    found = after(Histogram(path=str(path)), WIDE, 10.0, 0)
    upper = found[found > 9.5]
    assert abs(len(upper) - 15_000) < 5 * math.sqrt(20_000 * 0.75 * 0.25)
    assert float(upper.min()) >= low
    assert float(upper.max()) <= high
    assert abs(float(upper.mean()) - (low + high) / 2) < 0.05 * (high - low)


def test_it_is_a_value_of_a_corruption_and_its_digest_goes_into_the_record(path: Path) -> None:
    law = faults.build(f"corruption:where=bullet-wake,what=(histogram:path={path})")
    check_fault_on_floats(law)
    assert describe_fault(law)["digest"] == read_value_classes(str(path)).digest
    assert Corruption().digest is None


def check_fault_on_floats(law: Corruption) -> None:
    for number in range(20):
        (item,) = law.flips(Population((WIDE,)), derive(number, "x"))
        (same,) = law.flips(Population((WIDE,)), derive(number, "x"))
        held = bits.int_view(torch.ones(len(item.index))).to(torch.int64)
        assert torch.equal(item.against(held), same.against(held))


def test_a_mixture_without_special_classes_keeps_the_contract_of_a_fault(path: Path) -> None:
    path.write_text(json.dumps(GOOD | {"tensors": GOOD["tensors"][:1]}))
    check_fault(Corruption(where="row", what=f"histogram:path={path}"))


def test_formats_without_nan_refuse_it(path: Path) -> None:
    path.write_text(json.dumps(GOOD | {"tensors": [{"weight": 1, "elements": {"nan": 1}}]}))
    with pytest.raises(UnsupportedFormat, match="no nan"):
        Corruption(what=f"histogram:path={path}").flips(
            Population((Site("weights", "w", (4,), "int8", 8),)), derive(0, "x")
        )


@pytest.mark.parametrize(
    "changes",
    [
        {"of": "log"},
        {"extra": 1},
        {"tensors": []},
        {"tensors": [{"weight": 0, "elements": {"nan": 1}}]},
        {"tensors": [{"weight": True, "elements": {"nan": 1}}]},
        {"tensors": [{"weight": 1, "elements": {}}]},
        {"tensors": [{"weight": 1, "elements": {"other": 1}}]},
        {"tensors": [{"weight": 1}]},
        {"tensors": [4]},
        {"histograms": {"in-range": []}},
        {"histograms": {"in-range": [[2.0, 1.0, 1]]}},
        {"histograms": {"in-range": [[1.0, 2.0]]}},
        {"histograms": {"in-range": [["a", 2.0, 1]]}},
        {"histograms": {"in-range": [[1.0, 2.0, -1]]}},
        {"histograms": {"in-range": [[1.0, 2.0, 1]], "nan": [[1.0, 2.0, 1]]}},
        {"histograms": []},
    ],
)
def test_malformed_files_are_refused(path: Path, changes: dict) -> None:
    path.write_text(json.dumps(GOOD | changes))
    with pytest.raises(UnreadableArtifact, match="malformed"):
        read_value_classes(str(path))


def test_other_files_are_refused(path: Path) -> None:
    path.write_text("{}")
    with pytest.raises(UnsupportedVersion):
        read_value_classes(str(path))
    with pytest.raises(UnreadableArtifact):
        read_value_classes(str(path) + ".none")
    with pytest.raises(InvalidConfig, match="file or from memory"):
        Histogram()
