"""What a law draws under a seed is part of the format of results: it may never change."""

from __future__ import annotations

import hashlib

import pytest

from holdfast.execution import Population
from holdfast.execution.condition import faults
from holdfast.faults.addresses import addresses_of
from holdfast.models.site import Site
from holdfast.seeds import derive

POPULATION = Population((Site("weights", "a", (1000,), "int8", 8), Site("buffers", "b", (300,), "fp32", 32)))
SPECS: dict[str, str] = {
    "asymmetric-bit-errors:rate_0_to_1=0.02,rate_1_to_0=0.01": "4a36dca9808cd9a7",
    "bit-errors:rate=0.01": "7a0682a4b2195ff2",
    "bit-flip": "6985aca81f4d7e22",
    "bursts:rate=0.002,length=5": "0511dc3891ce3e3d",
    "exact-errors:count=40": "dbc02af1f92ea08b",
    "exact-errors:count=17000": "b167d78bb85eea3f",
    "intermittent-errors:rate=0.02,share=0.5,transient=0.001": "12050b46aec5ffd7",
    "line-failures:rate=0.1,layout=tiled/2x16x64": "2de3fc93196a6807",
    "line-rates:rates=0.01/0.001,line=row": "53beb8028445cdde",
    "multi-bit-upsets:rate=0.005,shares=bit=0.3/byte=0.2/pin=0.1/two=0.1/three=0.1/beat=0.2": "02b364d023e04e7b",
    "regional-errors:rate=0.01,layout=interleaved/2x16x64": "2f35aa59e82d669e",
    "stuck-at:rate=0.02": "a15ce6f3044cb3ca",
    "transient-errors:rate=0.01": "7a0682a4b2195ff2",
}


def fingerprint(spec: str) -> str:
    """Return a digest of the addresses that ``spec`` draws under a fixed seed, by column."""
    found = addresses_of(POPULATION, faults.build(spec).flips(POPULATION, derive(0, "frozen")))
    text = ";".join(f"{name}:{','.join(map(str, where.tolist()))}" for name, where in found.items())
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@pytest.mark.parametrize("spec", SPECS)
def test_a_law_draws_what_it_always_drew(spec: str) -> None:
    assert fingerprint(spec) == SPECS[spec]
