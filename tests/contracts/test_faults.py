"""Every registered fault keeps the laws of a fault, and a broken one is caught."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from holdfast.execution import Flips, Population
from holdfast.execution.condition import faults
from holdfast.faults import BitErrors, BitFlip
from holdfast.faults.corruption import patterns
from holdfast.seeds import Seed
from holdfast.testing import ContractBroken, check_fault

SPECS = {
    "bit-errors": [f"bit-errors:rate={rate}" for rate in ("0", "1e-6", "0.01", "0.3", "1")],
    "bit-flip": ["bit-flip"],
    "asymmetric-bit-errors": [
        f"asymmetric-bit-errors:rate_0_to_1={up},rate_1_to_0={down}" for up, down in ((0.1, 0.01), (0, 0.3), (1, 1))
    ],
    "bursts": ["bursts:rate=0.02,length=5", "bursts:rate=1"],
    "corruption": [f"corruption:where={where},what=random-bits" for where in patterns.names()]
    + [
        f"corruption:where=row,what={what}"
        for what in (
            "bit-flip",
            "(bit-flip:bits=3)",
            "(bit-flip:bits=2,adjacent=true,same=true)",
            "(flip-mask:mask=0b1001)",
            "(stuck:at=0)",
            "(stuck:at=random,bits=4)",
            "power-law",
            "(power-law:xmin=0.1,alpha=1.5,same=true)",
            "(set:value=1.5)",
            "uniform",
            "zero",
        )
    ]
    + ["corruption:where=mbu,what=stuck", "corruption:where=ecc-word,what=zero"],
    "dram-retention": [],  # these three read a file: tests/unit/faults checks their contracts
    "dram-voltage": [],
    "error-map": [],
    "exact-errors": [f"exact-errors:count={count}" for count in (0, 1, 200, 320)],
    "intermittent-errors": ["intermittent-errors:rate=0.1,share=0.3,transient=0.01"],
    "line-failures": [
        "line-failures:rate=0.3,layout=linear/1x8x16",
        "line-failures:rate=0.3,line=column,share=1,layout=tiled/2x8x16",
        "line-failures:rate=0.5,line=bank,share=0.1,layout=ecc/4x2x72/offset=9",
    ],
    "line-rates": ["line-rates:rates=0/0.1/0.01,layout=linear/4x4x8", "line-rates:rates=0.05,line=row"],
    "mixture": [f"mixture:path={Path(__file__).with_name('mixture.json')}"],
    "multi-bit-upsets": ["multi-bit-upsets:rate=0.01", "multi-bit-upsets:rate=0.05,shares=two=0.5/entry=0.5"],
    "regional-errors": [
        "regional-errors:rate=0.03,weak=0.2,layout=linear/1x8x16",
        "regional-errors:rate=0.01,line=bank,layout=interleaved/4x4x16/stripe=8",
    ],
    "sram-voltage": ["sram-voltage:voltage=0.8", "sram-voltage:voltage=1"],
    "stuck-at": [f"stuck-at:rate=0.1,value={value}" for value in ("0", "1", "random")],
    "timed": ["timed:fault=bit-flip,passes=3..7", "timed:fault=(transient-errors:rate=0.02),passes=5"],
    "transient-errors": ["transient-errors:rate=0.02"],
    "fault-list": [f"fault-list:path={Path(__file__).with_name('fault_list.jsonl')}"],
    "fixed-flips": [f"fixed-flips:path={Path(__file__).with_name('fixed_flips.json')}"],
    "protected": [
        f"protected:by={by},fault=bit-errors:rate={rate}"
        for by in (
            "secded",
            "(secded:matrix=hamming,ways=3,on-detect=zero)",
            "on-die-sec",
            "parity-zero",
            "(parity-zero:word=13,on-detect=leave)",
            "chipkill",
            "(chipkill:data=5,check=4,on-detect=zero)",
            "voting",
            "protect-bits:field=msb-2+lsb",
        )
        for rate in ("0", "0.02", "1")
    ],
}


def test_every_registered_fault_is_tested() -> None:
    assert set(faults.names()) == set(SPECS)
    assert faults.get("bit-errors") is BitErrors
    assert faults.get("bit-flip") is BitFlip


@pytest.mark.parametrize("spec", [spec for specs in SPECS.values() for spec in specs])
def test_every_fault_keeps_the_contract(spec: str) -> None:
    check_fault(faults.build(spec))


@dataclass(frozen=True)
class Broken:
    """Breaks one law, by name."""

    law: str

    def flips(self, population: Population, seed: Seed) -> list[Flips]:
        site = population.sites[0]
        index, mask = torch.tensor([0, 1]), torch.tensor([1, 1])
        if self.law == "global":
            torch.rand(1)
        if self.law == "replay":
            index = torch.randperm(site.numel, generator=torch.Generator().manual_seed(torch.seed() % 2**31))[:2]
        if self.law == "twice":
            index = torch.tensor([1, 1])
        if self.law == "outside":
            index = torch.tensor([0, site.numel])
        if self.law == "wide":
            mask = torch.tensor([1, 1 << site.bits])
        if self.law == "empty":
            mask = torch.tensor([1, 0])
        return [Flips(site, index, mask)]


def test_the_unbroken_one_passes() -> None:
    check_fault(Broken("none"))


@pytest.mark.parametrize(
    ("law", "message"),
    [
        ("global", "global generator"),
        ("replay", "seed"),
        ("twice", "at most once"),
        ("outside", "positions lie within"),
        ("wide", "8 bits"),
        ("empty", "only if a bit"),
    ],
)
def test_each_broken_law_is_named(law: str, message: str) -> None:
    with pytest.raises(ContractBroken, match=message):
        check_fault(Broken(law))
