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
from holdfast.shielding.planner import Law, Laws, Placement, cost, inferable, plan, spread, workload
from holdfast.shielding.planner.plan import sights
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


class Middle(nn.Module):
    """Three layers in a row."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(16, 16, bias=False) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.relu(self.b(torch.relu(self.a(x)))))


def solved(model: IntegerModel, words: dict[str, Placement], x: Tensor) -> float:
    """Return how near least squares on what the worker gets comes to the weights of `b`: median cosine of columns."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    with shield(model, placements=words) as session:  # type: ignore[arg-type]
        multiply = session._client.multiply

        def spy(layer: str, message: Tensor, *rest: object, **named: object) -> Tensor:
            answer: Tensor = multiply(layer, message, *rest, **named)  # type: ignore[arg-type]
            seen[layer] = message.clone(), answer.clone()
            return answer

        session._client.multiply = spy  # type: ignore[method-assign, assignment]
        session(x)
    given, wanted = torch.relu(seen["a"][1].reshape(len(x), -1).float()), seen["c"][0][0].reshape(len(x), -1).float()
    found = torch.zeros(16, 16)
    for unit in range(16):
        kept = (wanted[:, unit] > 0) & (wanted[:, unit] < 127)
        found[unit] = torch.linalg.lstsq(given[kept], wanted[kept, unit : unit + 1]).solution[:, 0]
    true = model.get_submodule("b")
    weights = true.codes.float() * true.weight_scale.unsqueeze(1)  # type: ignore[operator, union-attr]
    return float(torch.cosine_similarity(found, weights, dim=0).abs().median())


@pytest.mark.slow
def test_weights_between_two_layers_in_the_clear_are_solved_for() -> None:
    """The attack that a demand for hidden weights has to withstand, and the table to speak of."""
    torch.manual_seed(0)
    x = torch.randn(1024, 16)
    model = export(Middle().eval(), x[:1], x)
    words: dict[str, Placement] = {"a": "verified", "b": "trusted", "c": "verified"}
    assert solved(model, words, x) > 0.99
    every = {node.name: "trusted" for node in workload(model).nodes} | words
    seen = sights(workload(model), every)  # type: ignore[arg-type]
    assert (seen["b"].weights, seen["b"].input, seen["b"].output) == (
        "inferable from a and c", "inferable from a", "inferable from c",
    )  # fmt: skip
    made = plan(model, "optimal:hide_weights=b,hide_values=none", machine=OFFLOADING)
    assert sorted(made.placements.values()) == ["blinded", "trusted", "verified"]
    assert next(row.sight.weights for row in made.rows if row.node.name == "b") == "nothing"
    assert solved(model, made.placements, x) < 0.7


def test_a_run_of_trusted_layers_between_known_values_is_no_hiding_place() -> None:
    """What lies between can be trained as a whole from what the worker knows of both ends."""
    work = workload(chain())
    words: dict[str, Placement] = {node.name: "trusted" for node in work.nodes} | {"a": "verified", "d": "verified"}
    assert {sights(work, words)[name].weights for name in "bc"} == {"inferable from a and d"}
    one_end: dict[str, Placement] = words | {"d": "blinded"}
    assert {sights(work, one_end)[name].weights for name in "bc"} == {"nothing"}


@pytest.mark.parametrize("name", ["mobilenet", "llama"])
@pytest.mark.parametrize("values", ["none", "0", "-1"])
def test_no_optimum_tells_of_weights_that_it_was_to_hide(name: str, values: str) -> None:
    model = export(NETS[name][0](), inputs(name, 1), inputs(name, 4))
    names = [node.name for node in workload(model).linear()]
    for hidden in ([one] for one in names):
        named = values if values == "none" else names[int(values)]
        rule = f"optimal:hide_weights={'|'.join(hidden)},hide_values={named}"
        rows = {row.node.name: row for row in plan(model, rule, machine=OFFLOADING).rows}
        assert all(rows[one].sight.weights == "nothing" for one in hidden)


def test_the_cheaper_side_of_hidden_weights_is_hidden() -> None:
    """Exact against every placement: the fastest one under which the weights are neither seen nor inferable."""
    model = chain()
    work = workload(model)
    for hidden in ({"b"}, {"c"}, {"a", "c"}, {"b", "c"}, {"a"}, {"d"}):
        best = float("inf")
        for words in itertools.product(("trusted", "verified", "blinded"), repeat=4):
            placed: dict[str, Placement] = {node.name: "trusted" for node in work.nodes}
            placed |= dict(zip("abcd", words, strict=True))  # type: ignore[arg-type]
            if all(placed[name] == "trusted" and sights(work, placed)[name].weights == "nothing" for name in hidden):
                best = min(best, sum(cost(node, placed[node.name], OFFLOADING).seconds for node in work.nodes))
        rule = f"optimal:hide_weights={'|'.join(sorted(hidden))},hide_values=none"
        assert plan(model, rule, machine=OFFLOADING).total.seconds == pytest.approx(best, rel=1e-9)
