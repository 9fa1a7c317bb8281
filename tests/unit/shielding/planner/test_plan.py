"""Plans of real graphs: sizes, demands, budgets, published rules, and what each says that the worker sees."""

from __future__ import annotations

import functools
import itertools
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from holdfast.errors import InvalidConfig, UnknownName, UnsupportedVersion
from holdfast.models import build_architecture
from holdfast.shielding import integer_layers
from holdfast.shielding.graph import IntegerModel, export
from holdfast.shielding.planner import Law, Laws, Machine, PrivateAdapters, cost, plan, public_nodes, rules, workload
from holdfast.shielding.planner.chain import cuts, regions, stages
from holdfast.shielding.planner.rule import specification
from tests.unit.shielding.graph.nets import NETS, inputs

# a trusted world ten times slower than the worker, and a fast way between them: offloading pays
FAST_WORKER = Machine(
    trusted=Laws(conv2d=Law(mac=1e-9), linear=Law(mac=1e-9)),
    open=Laws(conv2d=Law(mac=1e-10), linear=Law(mac=1e-10)),
    worker=Laws(conv2d=Law(mac=1e-10), linear=Law(mac=1e-10)),
    check=Laws(conv2d=Law(operand=1e-9), linear=Law(operand=1e-9)),
    step=1e-8,
    elements=1e10,
    pads=1e10,
    bandwidth=1e10,
    crossing=1e-6,
)


@functools.cache
def graph(name: str) -> IntegerModel:
    return export(NETS[name][0](), inputs(name, 1), inputs(name, 4))


def test_sizes_are_those_of_the_layers() -> None:
    work = workload(graph("mobilenet"))
    nodes = {node.name: node for node in work.nodes}
    stem = nodes["stem.0"]
    assert (stem.macs, stem.inner, stem.channels, stem.taken, stem.given, stem.weights) == (
        8 * 8 * 8 * 27, 27, 8, 3 * 16 * 16, 8 * 8 * 8, 8 * 27,
    )  # fmt: skip
    assert (nodes["depthwise.0"].macs, nodes["depthwise.0"].operation) == (24 * 64 * 9, "depthwise")
    assert "grouped" in nodes["depthwise.0"].reason
    assert [node.name for node in work.linear()] == list(integer_layers(graph("mobilenet")))
    assert work.top_code == 127


def test_every_source_comes_before_its_reader_and_residuals_read_two() -> None:
    work = workload(graph("mobilenet"))
    seen = {work.input}
    for node in work.nodes:
        assert set(node.sources) <= seen
        seen.add(node.name)
    add = next(node for node in work.nodes if node.operation == "add")
    assert len(add.sources) == 2


@pytest.mark.parametrize("name", ["llama", "causal"])
def test_products_of_activations_are_counted_and_trusted(name: str) -> None:
    products = [node for node in workload(graph(name)).nodes if node.operation == "product"]
    tokens = NETS[name][1][0]
    heads, width = (4, 8) if name == "llama" else (4, 3)
    assert [node.macs for node in products[:2]] == [heads * tokens * tokens * width] * 2
    assert all("no weights" in node.reason for node in products)


def test_the_table_of_an_embedding_counts_as_held() -> None:
    held = {node.operation: node.weights for node in workload(graph("llama")).nodes}
    assert held["embedding"] == 4 * 512 * 32


def test_live_bytes_of_a_chain_are_input_and_output() -> None:
    net = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    work = workload(export(net, torch.randn(1, 8), torch.randn(4, 8)))
    assert work.live() == (4 * (8 + 4), 4 * (4 + 4), 4 * (4 + 2))


def test_the_optimum_is_the_best_of_all_placements() -> None:
    model = graph("mobilenet")
    work = workload(model)
    base = work.peak()
    linear = work.linear()
    rest = sum(cost(node, "trusted", FAST_WORKER).memory for node in work.nodes if not node.linear)
    for budget in (None, base + rest + 2500, base + rest + 6000, base + rest + 20_000):
        every = [
            sum(item.seconds for item in costs)
            for words in itertools.product(("trusted", "verified", "blinded"), repeat=len(linear))
            if (costs := [cost(node, word, FAST_WORKER) for node, word in zip(linear, words, strict=True)])
            and (budget is None or base + rest + sum(item.memory for item in costs) <= budget)
        ]
        small = sum(cost(node, "trusted", FAST_WORKER).seconds for node in work.nodes if not node.linear)
        made = plan(model, "optimal:hide_values=none", machine=FAST_WORKER, budget=budget)
        assert made.total.seconds == pytest.approx(min(every) + small, rel=1e-9)
        assert budget is None or made.total.memory <= budget


def test_demands_are_met() -> None:
    free = plan(graph("mobilenet"), "optimal:hide_values=none", machine=FAST_WORKER).placements
    assert "verified" in free.values()
    hidden = plan(graph("mobilenet"), "optimal:hide_weights=head|stem.*", machine=FAST_WORKER).placements
    assert {hidden["head"], hidden["stem.0"]} == {"trusted"}
    assert set(hidden.values()) == {"trusted", "blinded"}
    with pytest.raises(InvalidConfig, match="no linear node matches 'haed'"):
        plan(graph("mobilenet"), "optimal:hide_weights=haed", machine=FAST_WORKER)


def test_a_full_secure_memory_is_one_clear_error() -> None:
    with pytest.raises(InvalidConfig, match=r"needs [\d,]+ bytes and may use 100"):
        plan(graph("mobilenet"), machine=FAST_WORKER, budget=100)
    whole = plan(graph("mobilenet"), "whole", machine=FAST_WORKER)
    plan(graph("mobilenet"), "whole", machine=FAST_WORKER, budget=whole.total.memory)
    with pytest.raises(InvalidConfig, match="may use"):
        plan(graph("mobilenet"), "whole", machine=FAST_WORKER, budget=whole.total.memory - 1)


@pytest.mark.parametrize("name", ["mobilenet", "llama"])
@pytest.mark.parametrize(
    "rule", ["whole", "none", "last-k:k=2", "first-k:k=2", "slalom", "slalom:private=false", "tsqp", "optimal"]
)
def test_every_rule_places_every_node_of_any_graph(name: str, rule: str) -> None:
    made = plan(graph(name), rule, machine=FAST_WORKER)
    assert [row.node.name for row in made.rows] == [node.name for node in workload(graph(name)).nodes]
    assert made.total.seconds > 0
    assert len(made.table(every=True).splitlines()) == 1 + len(made.rows)
    assert json.loads(json.dumps(made.to_json()))["total"]["bytes"] == made.total.bytes


def test_published_rules_place_what_they_say() -> None:
    model, work = graph("mobilenet"), workload(graph("mobilenet"))
    place = {rule: plan(model, rule, machine=FAST_WORKER) for rule in ("whole", "none", "slalom", "tsqp")}
    assert set(place["whole"].placements.values()) == {"trusted"}
    assert place["whole"].total.bytes == 0
    assert set(place["none"].placements.values()) == {"exposed"}
    assert place["none"].total.bytes == 4 * (3 * 16 * 16 + 5)  # the input goes out, the answer comes back
    assert set(place["slalom"].placements.values()) == {"blinded"}
    assert {row.placement for row in place["tsqp"].rows if row.node.operation == "depthwise"} == {"probed"}
    chain = stages(work)
    for rule, inside in (("last-k:k=3", chain[-3:]), ("first-k:k=3", chain[:3])):
        got = {row.node.name for row in plan(model, rule, machine=FAST_WORKER).rows if row.world == "trusted"}
        assert got == {node.name for part in inside for node in part}


def test_k_follows_from_the_budget() -> None:
    model, work = graph("mobilenet"), workload(graph("mobilenet"))
    room = sum(node.weights for part in stages(work)[-2:] for node in part)
    made = plan(model, "last-k", machine=FAST_WORKER, budget=work.peak() + room)
    inside = {row.node.name for row in made.rows if row.world == "trusted"}
    assert inside == {node.name for part in stages(work)[-2:] for node in part}
    with pytest.raises(InvalidConfig, match="as many stages as fit a budget"):
        plan(model, "first-k", machine=FAST_WORKER)
    with pytest.raises(InvalidConfig, match="stages, not 99"):
        plan(model, "first-k:k=99", machine=FAST_WORKER)


def test_the_deadline_rule_protects_the_most_sensitive_stages(tmp_path: Path) -> None:
    model, work = graph("mobilenet"), workload(graph("mobilenet"))
    names = [next(node.name for node in part if node.macs) for part in stages(work)]
    file = tmp_path / "sensitivity.json"
    file.write_text(json.dumps({name: 1.0 if name == "head" else 0.001 for name in names}))
    whole = plan(model, "whole", machine=FAST_WORKER).total.seconds
    none = plan(model, "none", machine=FAST_WORKER).total.seconds
    relaxed = plan(model, f"deadline:seconds={2 * whole},sensitivity={file}", machine=FAST_WORKER)
    assert set(relaxed.placements.values()) == {"trusted"}
    tight = plan(model, f"deadline:seconds={(none + whole) / 2},sensitivity={file}", machine=FAST_WORKER)
    assert tight.placements["head"] == "trusted"
    assert "exposed" in tight.placements.values()
    assert tight.total.seconds <= (none + whole) / 2 + 1e-9
    with pytest.raises(InvalidConfig, match="no placement meets a deadline"):
        plan(model, f"deadline:seconds={none / 100},sensitivity={file}", machine=FAST_WORKER)
    file.write_text("{}")
    with pytest.raises(InvalidConfig, match=r"no sensitivity is given for stem\.0"):
        plan(model, f"deadline:seconds=1,sensitivity={file}", machine=FAST_WORKER)


def test_cuts_count_what_is_alive_between_stages() -> None:
    net = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    work = workload(export(net, torch.randn(1, 8), torch.randn(4, 8)))
    assert cuts(work, stages(work)) == [8, 4, 2]
    exposed = {node.name: "exposed" if node.name == "2" else "trusted" for node in work.nodes}
    assert regions(work, exposed) == {"2": [4, 2]}  # type: ignore[arg-type]


def test_private_adapters_offload_what_the_public_model_holds() -> None:
    x = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    public = build_architecture("vit-tiny:depth=1,dim=16").eval()
    private = build_architecture("vit-tiny:depth=1,dim=16").eval()
    with torch.no_grad():
        private.head.weight.add_(0.1)
    ours, theirs = export(private, x[:1], x), export(public, x[:1], x)
    shared = public_nodes(ours, theirs)
    assert shared == set(integer_layers(ours)) - {"head"}
    made = plan(ours, PrivateAdapters(public=shared), machine=FAST_WORKER)
    assert made.placements["head"] == "trusted"
    assert {made.placements[name] for name in shared} == {"blinded"}
    assert made.rule == "private-adapters:public=" + "|".join(sorted(shared))
    assert plan(ours, made.rule, machine=FAST_WORKER) == made
    with pytest.raises(InvalidConfig, match="no linear node 'haed'"):
        plan(ours, "private-adapters:public=haed", machine=FAST_WORKER)
    with pytest.raises(InvalidConfig, match="no node has public weights"):
        plan(ours, "private-adapters", machine=FAST_WORKER)


def test_the_table_says_who_sees_what() -> None:
    made = plan(graph("mobilenet"), "slalom", machine=FAST_WORKER)
    rows = {line.split("  ")[0]: line for line in made.table().splitlines()}
    assert "untrusted, blinded" in rows["head"]
    assert rows["head"].count("uniform residues") == 2
    assert "int8 codes" in rows["head"]
    assert rows["depthwise.0"].count("nothing") == 3
    assert "within 127, by a clamp" in made.summary()
    assert any("Z/256^b" in line for line in made.guarantees())
    exposed = plan(graph("mobilenet"), "none", machine=FAST_WORKER)
    assert exposed.guarantees() == ("exposed nodes: the worker sees everything and is believed",)


def test_rules_are_found_by_name() -> None:
    assert set(rules.names()) == {
        "optimal", "whole", "none", "last-k", "first-k", "deadline", "tsqp", "slalom", "private-adapters",
    }  # fmt: skip
    with pytest.raises(UnknownName, match="shield rule 'slolam'"):
        plan(graph("mobilenet"), "slolam", machine=FAST_WORKER)
    with pytest.raises(InvalidConfig, match="integer graph"):
        plan(nn.Linear(2, 2), machine=FAST_WORKER)


@pytest.mark.parametrize(
    "text", ["optimal", "whole", "last-k:k=3", "slalom:private=false", "deadline:seconds=0.5,sensitivity=f"]
)
def test_a_rule_is_written_as_it_is_read(text: str) -> None:
    rule = rules.build(text)
    assert rules.build(specification(rule)) == rule


def test_a_machine_is_read_back_and_a_bad_one_refused() -> None:
    assert Machine.from_json(json.loads(json.dumps(FAST_WORKER.to_json()))) == FAST_WORKER
    with pytest.raises(UnsupportedVersion):
        Machine.from_json({"type": "another"})
    with pytest.raises(InvalidConfig, match="bandwidth of a machine is 0"):
        Machine.from_json(FAST_WORKER.to_json() | {"bandwidth": 0})
    with pytest.raises(InvalidConfig, match="trusted of a machine"):
        Machine.from_json(FAST_WORKER.to_json() | {"trusted": 1.0})
    with pytest.raises(InvalidConfig, match="a machine has other fields"):
        Machine.from_json(FAST_WORKER.to_json() | {"colour": 1.0})
