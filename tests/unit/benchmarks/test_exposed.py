"""Baselines that believe a worker compute the same bits, where and with what they say."""

from __future__ import annotations

import functools
import os

import pytest
import torch
from benchmarks._exposed import Probed, Split, multiplied, packed, segments, unpacked
from tests.unit.shielding.graph.nets import NETS, inputs
from tests.unit.shielding.planner.test_plan import FAST_WORKER
from torch import Tensor, nn

from holdfast.shielding.graph import IntegerModel, export
from holdfast.shielding.planner import rules, workload
from holdfast.shielding.planner.chain import stages
from holdfast.shielding.product import byte_planes
from holdfast.shielding.transport import Frame, Kind

CORE = max(os.sched_getaffinity(0))


@functools.cache
def graph(name: str) -> IntegerModel:
    return export(NETS[name][0](), inputs(name, 1), inputs(name, 4))


def placed(name: str, rule: str) -> dict[str, str]:
    return dict(rules.build(rule).place(workload(graph(name)), FAST_WORKER, None))


@pytest.mark.parametrize("name", ["mobilenet", "vit", pytest.param("llama", marks=pytest.mark.slow)])
@pytest.mark.parametrize("rule", ["none", "last-k:k=2", "first-k:k=2"])
def test_an_exposed_region_runs_in_another_process_and_equals_the_graph(name: str, rule: str) -> None:
    model, x = graph(name), inputs(name, 1)
    split = Split(model, placed(name, rule), core=CORE)
    try:
        assert split.outside.process != os.getpid()
        for _ in range(2):  # nothing is left over from the first time
            assert torch.equal(split(x), model(x))
    finally:
        split.outside.close()


def test_stages_may_change_worlds_at_every_step() -> None:
    model, x = graph("mobilenet"), inputs("mobilenet", 1)
    words = {
        node.name: "exposed" if number % 2 else "trusted"
        for number, part in enumerate(stages(workload(model)))
        for node in part
    }
    assert sum(part.outside for part in segments(model, words)) > 3
    split = Split(model, words, core=CORE)
    try:
        assert torch.equal(split(x), model(x))
    finally:
        split.outside.close()


def test_the_worker_gets_what_it_reads_once_and_trusted_steps_stay_here() -> None:
    model = graph("mobilenet")
    words = placed("mobilenet", "last-k:k=2")
    parts = segments(model, words)
    outside = [part for part in parts if part.outside]
    assert len(outside) == 1
    assert model.input in outside[0].needed
    assert len(outside[0].returned) == 1
    placed_outside = {step.path for step in outside[0].steps if step.target == "module"}
    assert placed_outside == {node for node, word in words.items() if word == "exposed"} & placed_outside
    assert "head" not in placed_outside
    (whole,) = (part for part in segments(model, placed("mobilenet", "none")) if part.outside)
    assert whole.returned == (model.output,)
    assert sum(len(part.steps) for part in parts) == len(model.steps)


@pytest.mark.parametrize("name", ["mobilenet", "llama"])
def test_probed_layers_are_masked_and_equal_the_graph(name: str) -> None:
    model, x = graph(name), inputs(name, 1)
    names = frozenset(node for node, word in placed(name, "tsqp").items() if word == "probed")
    probed = Probed(model, names, core=CORE)
    sent: list[Tensor] = []
    ask = probed.outside.ask

    def watched(frame: Frame) -> Frame:
        if frame.body is not None:
            sent.append(frame.body)
        return ask(frame)

    probed.outside.ask = watched  # type: ignore[method-assign]
    try:
        probed.prepare(x, 2)
        assert torch.equal(probed(x), model(x))
        assert torch.equal(probed(x), model(x))
    finally:
        probed.outside.close()
    assert len(sent) == 2 * len(names)
    codes = [planes[0].int() + (planes[1].int() << 8) for planes in sent]
    assert max(int(part.abs().max()) for part in codes) <= 2 * 127  # so small a mask hides little, which is the point
    assert not all(torch.equal(a, b) for a, b in zip(codes[: len(names)], codes[len(names) :], strict=True))


@pytest.mark.parametrize("path", ["depthwise.0", "grouped", "stem.0"])
def test_products_of_every_kind_of_layer_are_exact_with_masks(path: str) -> None:
    layer = graph("mobilenet").get_submodule(path)
    channels = layer.geometry.in_channels * getattr(layer, "groups", 1)  # type: ignore[union-attr]
    codes = torch.randint(-254, 254, (1, channels, 8, 8), dtype=torch.int32)
    weights = layer.codes.double()  # type: ignore[union-attr,operator]
    geometry = layer.geometry
    left, right, top, bottom = geometry.padding  # type: ignore[union-attr,misc]
    padded = nn.functional.pad(codes.double(), (left, right, top, bottom))
    wanted = nn.functional.conv2d(
        padded,
        weights,
        stride=geometry.stride,
        dilation=geometry.dilation,
        groups=getattr(layer, "groups", 1),  # type: ignore[union-attr,arg-type]
    )
    assert torch.equal(multiplied(layer, byte_planes(codes)[:2]).double(), wanted)


def test_values_survive_a_frame() -> None:
    values = {"a": torch.randn(2, 3), "n": 7, "b": torch.arange(4), "c": torch.ones(1, 1)}
    values |= {"d": torch.tensor([[True, False, True]] * 3), "e": torch.ones(5, dtype=torch.bfloat16)}
    frame = packed(Kind.RUN, values, segment=3)
    found = unpacked(frame)
    assert frame.header["segment"] == 3
    assert found["n"] == 7
    assert all(torch.equal(found[key], values[key]) for key in "abcde")
    assert unpacked(packed(Kind.RUN, {"n": 1})) == {"n": 1}
