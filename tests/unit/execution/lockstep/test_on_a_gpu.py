"""On a CUDA device only: lockstep with CUDA graphs and streams against whole passes, and the outcomes of the CPU."""

from __future__ import annotations

import logging

import pytest
import torch

import holdfast
from holdfast.errors import InvalidConfig
from holdfast.execution import CampaignReport, campaign
from holdfast.execution.engines import Hooks, Lockstep, build_engine
from holdfast.execution.executors.devices import visible
from holdfast.models import build_architecture, sites
from tests.unit.execution.lockstep.test_bit_equality import beside_others
from tests.unit.execution.suffix.nets import NETS, build
from tests.unit.execution.suffix.test_bit_equality import draw

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
CUDA = "cuda"
DATA = holdfast.dataset("digits", split="test").take(16)


def table(device: str, engine: str = "auto", **options: object) -> CampaignReport:
    model = build_architecture("digits-cnn", seed=0).eval().to(device)
    given = {"at": "activations,weights", "trials": 512, "seed": 3, "batch": 32} | options
    return campaign(model, DATA, holdfast.BitFlip(), engine=engine, **given)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("options", ["rows=4", "rows=4,streams=3", "rows=4,graphs=False"])
def test_a_fault_in_any_site_gives_the_bits_of_a_whole_pass_of_a_full_batch(name: str, options: str) -> None:
    model, samples = build(name)
    model, samples = model.to(CUDA), samples.to(CUDA)
    images = lambda numbers: samples[list(numbers)].clone()
    with torch.no_grad():
        engine, plain = build_engine(f"lockstep:{options}", model, images), Hooks(model, images)
        for block in engine.blocks(draw(sites(model, samples[0]), 3), 4):
            for trial, row in zip(block, engine.faulty(block), strict=True):
                expected = beside_others(plain, trial, 4)
                assert torch.equal(row.view(torch.int32), expected.view(torch.int32)), trial.address


@pytest.mark.parametrize("name", ["vit", "resnet", "gpt"])
def test_segments_are_captured(name: str, caplog: pytest.LogCaptureFixture) -> None:
    model, samples = build(name)
    model, samples = model.to(CUDA), samples.to(CUDA)
    engine = build_engine("lockstep:rows=4,streams=2", model, lambda numbers: samples[list(numbers)].clone())
    assert isinstance(engine, Lockstep)
    with torch.no_grad(), caplog.at_level(logging.WARNING):
        engine.prepare(0)
    assert all(lane.recorded for track in engine._tracks.values() for lane in track.lanes), caplog.text


def test_outcomes_are_those_of_the_cpu() -> None:
    """Equal in what fails; a fault that only rounding masks may be masked on one device and not on the other."""
    here, there = table("cpu"), table(CUDA)
    assert there.plan["computed"] == "lockstep"
    assert there.plan["knobs"]["gpu"] == torch.cuda.get_device_name()
    assert [(row.site, row.element, row.bit, row.input) for row in here.rows] == [
        (row.site, row.element, row.bit, row.input) for row in there.rows
    ]
    for one, other in zip(here.rows, there.rows, strict=True):
        if one.outcome != other.outcome:
            assert {one.outcome, other.outcome} == {"masked", "sdc"}
            assert max(one.max_absolute or 0, other.max_absolute or 0) < 1e-5


def test_the_table_is_that_of_whole_passes_on_the_same_device() -> None:
    options = {"at": "activations:conv1", "trials": 256}
    assert table(CUDA, "lockstep", **options).rows == table(CUDA, "hooks", **options).rows


@pytest.mark.slow
def test_every_gpu_computes_the_same_table() -> None:
    expected = table(CUDA).rows
    assert table(CUDA, executor=f"processes:{len(visible())}").rows == expected


def test_memory_is_capped_by_what_is_free() -> None:
    model, samples = build("vit")
    model, samples = model.to(CUDA), samples.to(CUDA)
    engine = build_engine("lockstep:rows=4", model, lambda numbers: samples[list(numbers)].clone())
    assert isinstance(engine, Lockstep)
    assert 0 < engine._budget(samples) <= torch.cuda.mem_get_info()[0]
    with pytest.raises(InvalidConfig):
        build_engine("lockstep:memory=-1", model, lambda numbers: samples)
