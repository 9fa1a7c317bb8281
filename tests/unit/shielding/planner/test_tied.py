"""Weights that more than one node holds: found by their values, hidden together, and told of where any shows them."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from holdfast.errors import InvalidConfig
from holdfast.shielding.graph import IntegerModel, export
from holdfast.shielding.planner import Placement, Workload, plan, workload
from holdfast.shielding.planner.plan import sights
from holdfast.shielding.planner.tied import Held, tied
from tests.unit.shielding.graph.nets import NETS, inputs
from tests.unit.shielding.planner.test_inference import OFFLOADING


class Twice(nn.Module):
    """One layer, called twice."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(width, width), nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.a(x))
        return self.b(torch.relu(self.a(x)))


class Head(nn.Module):
    """A head that is the embedding's table."""

    def __init__(self) -> None:
        super().__init__()
        self.e, self.f, self.h = nn.Embedding(50, 16), nn.Linear(16, 16), nn.Linear(16, 50, bias=False)
        self.h.weight = self.e.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.h(torch.relu(self.f(self.e(x))))


class Normed(nn.Module):
    """One convolution under two normalisations, which export folds into it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.Linear(4, 3)
        self.one, self.two = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        with torch.no_grad():
            self.two.weight.copy_(torch.tensor([0.37, -1.9, 1.1, 2.3]))
            self.two.running_var.copy_(torch.tensor([0.6, 1.7, 2.9, 0.2]))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.two(self.conv(torch.relu(self.one(self.conv(x))))))
        return self.head(x.mean((2, 3)))


class Mirrored(nn.Module):
    """A decoder that is its encoder, transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Linear(32, 8)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(torch.relu(self.down(x)), self.down.weight.t())


class Sliced(nn.Module):
    """A layer whose rows are the last ones of another's."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(16, 16), nn.Linear(16, 8)
        with torch.no_grad():
            self.b.weight.copy_(0.5 * self.a.weight[8:])

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(x)))


@functools.cache
def made(net: Callable[[], nn.Module]) -> IntegerModel:
    torch.manual_seed(0)
    if net is Head:
        return export(net().eval(), torch.randint(0, 50, (1, 8)), torch.randint(0, 50, (16, 8)))
    shape = (4, 8, 8) if net is Normed else (32,) if net is Mirrored else (16,)
    return export(net().eval(), torch.randn(1, *shape), torch.randn(32, *shape))


def ties(work: Workload) -> set[frozenset[str]]:
    return {frozenset((node.name, *node.tied)) for node in work.nodes if node.tied}


@pytest.mark.parametrize("net", [Twice, Head, Normed, Mirrored, Sliced])
def test_what_was_one_tensor_is_found_by_its_values(net: Callable[[], nn.Module]) -> None:
    (names,) = ties(workload(made(net)))
    assert len(names) == 2


@pytest.mark.parametrize("name", ["mobilenet", "llama", "causal"])
def test_layers_of_their_own_are_not_taken_for_one(name: str) -> None:
    work = workload(export(NETS[name][0](), inputs(name, 1), inputs(name, 4)))
    assert not {node.name for node in work.linear() if node.tied}


def test_what_everybody_has_ties_nothing() -> None:
    zeros, ones, ternary = torch.zeros(4, 16), torch.ones(16), torch.randint(-1, 2, (2, 64, 16)).float()
    assert not any(tied({"a": [Held(zeros), Held(ones)], "b": [Held(zeros), Held(ones)]}).values())
    assert not any(tied({"a": [Held(ternary[0])], "b": [Held(ternary[1])]}).values())
    assert tied({"a": [Held(ternary[0])], "b": [Held(ternary[0])]}) == {"a": ("b",), "b": ("a",)}


def test_hidden_weights_are_hidden_wherever_they_are_held() -> None:
    """The attack: `a` stays trusted, as demanded, and its weights go out as those of `a_2`."""
    model = made(Twice)
    assert torch.equal(model.get_submodule("a").codes, model.get_submodule("a_2").codes)  # type: ignore[arg-type]
    for named in ("a", "a_2"):
        for values in ("none", "*"):
            words = plan(model, f"optimal:hide_weights={named},hide_values={values}", machine=OFFLOADING).placements
            assert words["a"] == words["a_2"] == "trusted"
            assert words["b"] != "trusted"


def test_a_budget_that_only_a_twin_outside_would_fit_is_an_error() -> None:
    """Outside, a layer of this width takes a tenth of the memory; its twin inside would be for nothing."""
    x = torch.randn(8, 256)
    model = export(Twice(256).eval(), x[:1], x)
    whole = plan(model, "whole", machine=OFFLOADING).total.memory
    outside = plan(model, "optimal:hide_weights=b", machine=OFFLOADING, budget=whole // 2)
    assert outside.placements == {"a": "blinded", "a_2": "blinded", "b": "trusted"}
    with pytest.raises(InvalidConfig, match="may use"):
        plan(model, "optimal:hide_weights=a", machine=OFFLOADING, budget=whole // 2)


def test_a_table_that_the_head_shows_is_said_to_be_shown() -> None:
    rows = {row.node.name: row.sight for row in plan(made(Head), "slalom", machine=OFFLOADING).rows}
    assert rows["embedding"].weights == "inferable from h"
    lines = plan(made(Head), "slalom", machine=OFFLOADING)
    assert "inferable from h" in lines.table()
    assert not any("sees neither" in line for line in lines.guarantees())


def test_a_hidden_head_hides_the_values_that_its_table_would_show() -> None:
    """What the first layer gets are rows of the table: the head's weights, if anybody reads them there."""
    made_plan = plan(made(Head), "optimal:hide_weights=h,hide_values=none", machine=OFFLOADING)
    assert made_plan.placements == {"f": "blinded", "h": "trusted"}
    assert {row.sight.weights for row in made_plan.rows if row.node.tied} == {"nothing"}


def test_a_twin_outside_lets_values_through() -> None:
    """The worker knows the weights of a trusted layer that it holds as another's, so it computes what lies behind."""
    work = workload(made(Twice))
    words: dict[str, Placement] = {node.name: "trusted" for node in work.nodes} | {"a_2": "blinded", "b": "verified"}
    seen = sights(work, words)
    assert seen["a"].weights == "inferable from a_2"
    assert seen["a"].input == "inferable from b"
