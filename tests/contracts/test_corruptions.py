"""Every registered pattern and value keeps its contract, and broken ones are caught."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from holdfast.execution import Flips
from holdfast.faults.corruption import Region, Single, Zero, patterns, values
from holdfast.models import Site
from holdfast.seeds import Seed
from holdfast.testing import ContractBroken, check_pattern, check_value

VALUES = {
    "bit-flip": ["bit-flip", "bit-flip:bits=5", "bit-flip:bits=3,adjacent=true", "bit-flip:bit=7,same=true"],
    "flip-mask": ["flip-mask:mask=0xa5"],
    "histogram": [],  # reads a file, see below
    "inf": ["inf", "inf:sign=random"],
    "nan": ["nan"],
    "power-law": ["power-law", "power-law:opcode=fmul", "power-law:xmin=0.5,alpha=2,same=true"],
    "random-bits": ["random-bits"],
    "set": ["set:value=0.1", "set:value=1e300"],
    "stuck": ["stuck", "stuck:at=0,bits=8", "stuck:at=random,bits=4"],
    "uniform": ["uniform"],
    "zero": ["zero"],
}


def test_every_value_is_here() -> None:
    assert set(values.names()) == set(VALUES)


@pytest.mark.parametrize("spec", [spec for specs in VALUES.values() for spec in specs])
def test_every_value_keeps_the_contract(spec: str) -> None:
    check_value(values.build(spec))


@pytest.mark.parametrize("name", [*patterns.names(), "row:share=0.3", "mbu:bits=9", "block:rows=9,columns=1,share=0.5"])
def test_every_pattern_keeps_the_contract(name: str) -> None:
    check_pattern(patterns.build(name))


@pytest.mark.parametrize("of", ["value", "ratio", "difference"])
def test_measured_classes_keep_the_contract(of: str, tmp_path: Path) -> None:
    path = tmp_path / "classes.json"
    tensors = [{"weight": 1, "elements": {"nan": 1, "inf": 2, "-inf": 1, "zero": 1, "near": 3}}]
    histograms = {"near": [[-1.0, 1.0, 1], [1.0, 1e6, 2]]}
    path.write_text(
        json.dumps(
            {"type": "holdfast.value-classes/v1", "source": "", "of": of, "tensors": tensors, "histograms": histograms}
        )
    )
    check_value(values.build(f"histogram:path={path}"))


@dataclass(frozen=True)
class BrokenPattern:
    law: str

    def region(self, site: Site, element: int, bit: int, seed: Seed) -> Region:
        index = {
            "away": np.array([(element + 1) % max(site.numel, 2)]),
            "outside": np.array([element, site.numel]),
            "twice": np.array([element, element]),
            "type": np.array([element], np.int32),
            "replay": np.unique([element, int(torch.randint(site.numel, ()))]),
        }.get(self.law, np.array([element]))
        bits = {"none": np.array([0]), "wide": np.array([1 << (site.bits % 64)])}.get(self.law)
        return Region(index, bits)


@pytest.mark.parametrize(
    ("law", "message"),
    [
        ("away", "holds the element"),
        ("outside", "lie within"),
        ("twice", "each once"),
        ("type", "int64"),
        ("replay", "same seed"),
        ("none", "bits are some"),
        ("wide", "bits are some"),
    ],
)
def test_a_broken_pattern_is_caught(law: str, message: str) -> None:
    with pytest.raises(ContractBroken, match=message):
        check_pattern(BrokenPattern(law))
    check_pattern(Single())


@dataclass(frozen=True)
class BrokenValue:
    law: str

    def changes(self, site: Site, region: Region, seed: Seed) -> Flips:
        index = torch.from_numpy(region.index)
        if self.law == "elsewhere":
            return Flips(Site("weights", "other", (1,), "fp32", 32), index, torch.ones_like(index))
        if self.law == "part":
            index = index[:1]
        mask = {"nothing": torch.zeros_like(index), "replay": torch.randint(1, 255, index.shape)}.get(self.law)
        return Flips(site, index, torch.ones_like(index) if mask is None else mask)


@pytest.mark.parametrize(
    ("law", "message"),
    [
        ("elsewhere", "the site it is given"),
        ("part", "all of it"),
        ("nothing", "only if a bit"),
        ("replay", "same seed"),
    ],
)
def test_a_broken_value_is_caught(law: str, message: str) -> None:
    with pytest.raises(ContractBroken, match=message):
        check_value(BrokenValue(law))
    check_value(Zero())
    with pytest.raises(ContractBroken, match="is no Pattern"):
        check_pattern(Zero())
