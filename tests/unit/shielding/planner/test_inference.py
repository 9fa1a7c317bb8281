"""What the worker works out beyond what it is sent, and that no demand or promise of a plan overlooks it."""

from __future__ import annotations

import functools
import itertools
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from holdfast.shielding import shield
from holdfast.shielding.graph import IntegerModel, export
from holdfast.shielding.planner import Law, Laws, inferable, plan, spread, workload
from tests.unit.shielding.graph.nets import NETS, inputs
from tests.unit.shielding.planner.test_plan import FAST_WORKER

OFFLOADING = replace(FAST_WORKER, trusted=Laws(conv2d=Law(mac=1.0), linear=Law(mac=1.0)))  # at any size


class Fork(nn.Module):
    """Two layers read what one gives; a third reads their sum."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.left, self.right, self.head = (nn.Linear(8, 8) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        return self.head(self.left(x) + self.right(x))


@functools.cache
def chain() -> IntegerModel:
    torch.manual_seed(0)
    names = ("a", "b", "c", "d")
    net = nn.Sequential()
    for name in names:
        net.add_module(name, nn.Linear(8, 8))
        net.add_module(f"relu_{name}", nn.ReLU())
    return export(net.eval(), torch.randn(1, 8), torch.randn(16, 8))


@functools.cache
def fork() -> IntegerModel:
    return export(Fork().eval(), torch.randn(1, 8), torch.randn(16, 8))


def test_what_one_layer_shows_gives_the_next_layers_input_away() -> None:
    """The attack: the input of a blinded layer, computed from nothing but the answers of the verified one before it."""
    model, x = chain(), torch.randn(4, 8, generator=torch.Generator().manual_seed(1))
    layers = {name: model.get_submodule(name) for name in ("a", "b")}
    answers = layers["a"].accumulate(layers["a"].encode(x))  # type: ignore[operator]
    guessed = layers["b"].encode(torch.relu(layers["a"].epilogue(answers)))  # type: ignore[operator]
    seen: list[Tensor] = []
    hook = layers["b"].register_forward_pre_hook(lambda _, args: seen.append(layers["b"].encode(args[0])))  # type: ignore[operator]
    model(x)
    hook.remove()
    assert torch.equal(guessed, seen[0])
    assert inferable(workload(model), {n.name: "trusted" for n in workload(model).nodes} | {"a": "verified"})["relu"]
    assert plan(model, "optimal:hide_values=b", machine=OFFLOADING).placements["a"] == "blinded"


def test_a_demand_spreads_to_siblings_and_both_ways() -> None:
    made = plan(fork(), "optimal:hide_values=left", machine=OFFLOADING).placements
    assert set(made.values()) <= {"blinded", "trusted"}
    work = workload(fork())
    assert spread(work, {"left"}, {"stem", "right", "head"}) == {"stem", "left", "right", "head"}
    assert spread(work, (), ()) == frozenset()


def test_hidden_weights_part_what_is_hidden_from_the_rest() -> None:
    made = plan(chain(), "optimal:hide_weights=b,hide_values=c", machine=OFFLOADING)
    assert made.placements == {"a": "verified", "b": "trusted", "c": "blinded", "d": "blinded"}
    rows = {row.node.name: row.sight for row in made.rows}
    assert (rows["a"].output, rows["b"].input, rows["b"].output) == ("integers", "inferable from a", "nothing")
    assert rows["c"].input == rows["d"].output == "uniform residues"
    with shield(chain(), placements=made.placements) as session:  # type: ignore[arg-type]
        x = torch.randn(2, 8)
        assert torch.equal(session(x), chain()(x))


@pytest.mark.parametrize("name", ["mobilenet", "llama"])
def test_no_optimum_tells_of_a_value_that_it_was_to_hide(name: str) -> None:
    model = export(NETS[name][0](), inputs(name, 1), inputs(name, 4))
    work = workload(model)
    names = [node.name for node in work.linear()][:5]
    sources = {node.name: (*node.sources, node.name) for node in work.nodes}
    for hidden, unknown in itertools.permutations(names, 2):
        rule = f"optimal:hide_values={hidden},hide_weights={unknown}"
        words = {row.node.name: row.placement for row in plan(model, rule, machine=OFFLOADING).rows}
        assert not set(sources[hidden]) & inferable(work, words).keys()


def test_a_plan_says_of_trusted_nodes_what_their_neighbours_tell() -> None:
    made = plan(chain(), "slalom:private=false", machine=OFFLOADING)
    relu = next(row for row in made.rows if row.node.name == "relu")
    assert (relu.sight.weights, relu.sight.input, relu.sight.output) == (
        "nothing",
        "inferable from a",
        "inferable from b",
    )
    assert "inferable from a" in made.table()
    assert (
        next(node for node in made.to_json()["nodes"] if node["name"] == "relu")["sees"]["input"] == "inferable from a"
    )
    assert not any("sees neither" in line for line in made.guarantees())
    assert any("inferable" in line for line in made.guarantees())
    kept = plan(chain(), "slalom", machine=OFFLOADING)
    assert "inferable" not in kept.table(every=True)
    assert any("sees neither" in line for line in kept.guarantees())


def test_blinding_after_a_layer_in_the_clear_is_said_to_hide_little() -> None:
    work = workload(chain())
    words = {node.name: "trusted" for node in work.nodes} | {"a": "verified", "b": "blinded", "c": "blinded"}
    assert inferable(work, words)["c"] == "a"


def test_what_tells_of_a_value_is_named_as_near_as_there_is() -> None:
    work = workload(chain())
    words = {node.name: "trusted" for node in work.nodes} | dict.fromkeys("abcd", "verified")
    assert inferable(work, words)[work.nodes[-1].name] == "d"
