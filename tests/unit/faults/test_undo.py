"""Every law on a real model, plain and quantised: injected, and undone to the last byte."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from holdfast.execution import inject
from holdfast.execution.condition import Fault, faults
from holdfast.faults import ErrorMap, write_error_map
from holdfast.models import card, select, stored
from holdfast.quantization import quantize

SPECS = [
    "asymmetric-bit-errors:rate_0_to_1=0.02,rate_1_to_0=0.001",
    "bit-errors:rate=0.01",
    "bit-flip",
    "bursts:rate=0.002,length=5",
    "exact-errors:count=40",
    "line-failures:rate=0.1,line=column,layout=tiled/2x16x64",
    "line-rates:rates=0.01/0.001,line=row",
    "multi-bit-upsets:rate=0.002",
    "regional-errors:rate=0.01,line=row,layout=interleaved/2x16x64",
    "sram-voltage:voltage=0.82",
    "stuck-at:rate=0.02",
    "stuck-at:rate=1,value=1",
]
READS = ["transient-errors:rate=0.01", "intermittent-errors:rate=0.02,share=0.5,transient=0.001"]
AT = "weights,buffers"


def memory_of(model: nn.Module) -> bytes:
    codes = [stored(model, site).codes.contiguous() for site in select(model, AT)]
    values = [value.detach().contiguous() for value in model.state_dict().values()]
    return b"".join(value.numpy().tobytes() for value in (*codes, *values))


def codes_of(model: nn.Module) -> np.ndarray:
    return np.concatenate([stored(model, site).codes.flatten().to(torch.int64).numpy() for site in select(model, AT)])


@pytest.fixture(scope="module", params=["fp32", "int8", "rquant4"])
def model(request: pytest.FixtureRequest, trained: nn.Module) -> nn.Module:
    return trained if request.param == "fp32" else quantize(trained, request.param)


@pytest.fixture(scope="module")
def chip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("maps") / "chip.npz"
    address, way = np.arange(0, 1024, 31), np.arange(34, dtype=np.int8) % 3 - 1
    write_error_map(path, ErrorMap((2, 8, 64), address, way[: len(address)], np.zeros(len(address))))
    return path


def check_undone(model: nn.Module, fault: Fault, seed: int) -> None:
    before, codes = memory_of(model), codes_of(model)
    with inject(model, fault, at=AT, seed=seed):
        assert memory_of(model) != before
        assert (codes_of(model) != codes).any()
    assert memory_of(model) == before


@pytest.mark.parametrize("spec", SPECS)
def test_a_law_of_the_chip_is_undone(spec: str, model: nn.Module) -> None:
    for seed in range(3):
        check_undone(model, faults.build(spec), seed)


@pytest.mark.parametrize("offset", [None, 7])
def test_a_measured_chip_is_undone(offset: int | None, model: nn.Module, chip: Path) -> None:
    check_undone(model, faults.build("error-map", path=str(chip), offset=offset), 1)


@pytest.mark.parametrize("spec", READS)
def test_a_law_of_reads_is_undone_after_each(spec: str, model: nn.Module) -> None:
    before, seen = memory_of(model), []
    hook = next(model.children()).register_forward_pre_hook(lambda *_: seen.append(memory_of(model)))
    with inject(model, faults.build(spec), at=AT, seed=2), torch.no_grad():
        for _ in range(3):
            model(torch.zeros(1, 1, 8, 8))
            assert memory_of(model) == before
    hook.remove()
    assert len({before, *seen}) == 4


def test_stuck_memory_reads_as_it_is_stuck(trained: nn.Module) -> None:
    """Every bit at one: the largest code of an unsigned format, minus one of a signed one."""
    small = quantize(trained, "int8", at="weights:conv*")
    with inject(small, faults.build("stuck-at:rate=1,value=1"), at="weights:conv*"):
        assert all((stored(small, site).codes == -1).all() for site in select(small, "weights:conv*"))
    assert card(small).lenses
