"""Taps: an identity changes no bit, a replacement is what every later reader sees, and guards come after."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from holdfast.errors import NoSuchSite
from holdfast.models import attach_guard, select, tap
from holdfast.numerics.bits import bit_equal


def names(model: nn.Module, example: Tensor) -> list[str]:
    return [site.name for site in select(model, "activations", example)]


@torch.no_grad()
def test_identity_taps_change_no_bit_and_all_fire(network):
    model, example = network
    batch = torch.rand(3, *example.shape)
    golden, shapes = model(batch), {}

    def watch(name):
        def look(value):
            shapes[name] = tuple(value.shape)
            return value

        return look

    wanted = {site.name: site.shape for site in select(model, "activations,inputs,outputs", example)}
    with tap(model, {name: watch(name) for name in wanted}):
        assert bit_equal(model(batch), golden)
    assert shapes == {name: (3, *shape) for name, shape in wanted.items()}
    assert bit_equal(model(batch), golden)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@torch.no_grad()
def test_every_site_can_change_the_output(network):
    model, example = network
    batch = torch.rand(2, *example.shape)
    golden = model(batch)
    for name in names(model, example)[::5]:
        with tap(model, {name: lambda value: value * 0 + 1e3}):
            assert not bit_equal(model(batch), golden), name


@torch.no_grad()
def test_an_in_place_sum_is_replaced_after_the_addition(in_place):
    x = torch.rand(2, 4)
    with tap(in_place, {"/add": lambda value: value.fill_(5)}):
        assert torch.equal(in_place(x), torch.full((2, 4), 10.0))
    with tap(in_place, {"fc": lambda value: torch.zeros_like(value)}):
        assert torch.equal(in_place(x), x * 2)  # the fault at fc does not repeat at the sum


@torch.no_grad()
def test_what_an_unused_in_place_result_became_is_still_seen(in_place):
    x = torch.rand(2, 4)
    with tap(in_place, {"/relu": lambda value: torch.full_like(value, 7)}):
        assert torch.equal(in_place(x), (x + 7) * 2)


@torch.no_grad()
def test_one_call_of_a_module_called_twice(twice):
    x, seen = torch.rand(2, 4), []
    with tap(twice, {"fc#1": lambda value: seen.append(value.clone()) or value}):
        twice(x)
        twice(x)  # numbering starts again in each pass
    assert len(seen) == 2
    assert torch.equal(seen[0], twice.fc(twice.fc(x)))


@torch.no_grad()
def test_one_tensor_of_a_tuple(recurrent):
    x = torch.rand(2, 3, 4)
    with tap(recurrent, {"lstm#0.0": torch.zeros_like}):
        assert torch.equal(recurrent(x), recurrent.fc.bias.expand(2, 2))


@torch.no_grad()
def test_a_layer_called_output_is_tapped_once(ends):
    calls = []
    with tap(ends, {"output": lambda value: calls.append("layer") or value}):
        ends(torch.rand(1, 4))
    with tap(ends, {"output#model": lambda value: calls.append("model") or value}):
        ends(torch.rand(1, 4))
    assert calls == ["layer", "model"]


@torch.no_grad()
def test_operations_inside_a_tap_are_not_part_of_the_model(digits_net):
    x = torch.rand(2, 1, 8, 8)

    def sums(others):
        seen = []
        with tap(digits_net, {**others, "/add": lambda value: seen.append(value.clone()) or value}):
            digits_net(x)
        return seen

    busy = dict.fromkeys(("conv1", "norm1", "relu"), lambda value: torch.add(value, 0.0))
    (alone,), (among_others,) = sums({}), sums(busy)
    assert bit_equal(alone, among_others)


@pytest.mark.parametrize("name", ["nowhere", "nowhere/add", "relu/add/add", "conv1.weight", ""])
def test_a_place_that_cannot_exist_is_refused(digits_net, name):
    with pytest.raises(NoSuchSite, match="computes no"):
        tap(digits_net, {name: lambda value: value})


@torch.no_grad()
def test_hooks_go_when_the_model_raises(digits_net):
    def broken(_: Tensor) -> Tensor:
        raise RuntimeError("lost")

    with pytest.raises(RuntimeError, match="lost"), tap(digits_net, {"/add": broken}):
        digits_net(torch.rand(1, 1, 8, 8))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in digits_net.modules())
    assert digits_net(torch.rand(1, 1, 8, 8)).shape == (1, 10)


class Order:
    """A guard that notes what it got."""

    kind = "order"
    events = None

    def __init__(self, site: str, log: list[float]) -> None:
        self.site, self.log = site, log

    def __call__(self, x: Tensor) -> Tensor:
        self.log.append(float(x.flatten()[0]))
        return x.clamp(max=1.0)

    def to_json(self) -> dict[str, Any]:
        return {}


@pytest.mark.parametrize("site", ["conv1", "relu#1", "/add", "/mean"])
@torch.no_grad()
def test_guards_see_what_taps_left(digits_net, site):
    log: list[float] = []
    attach_guard(digits_net, Order(site, log))
    with tap(digits_net, {site: lambda value: value * 0 + 9}):
        digits_net(torch.rand(1, 1, 8, 8))
    assert log == [9.0]
