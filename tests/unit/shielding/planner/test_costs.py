"""What a cost counts: every part of a call once, in the world where it happens. No test here looks at a clock."""

from __future__ import annotations

import functools
from dataclasses import replace

import pytest
import torch

from holdfast.errors import InvalidConfig
from holdfast.shielding import int8_model, integer_layers
from holdfast.shielding.graph import IntegerModel, export
from holdfast.shielding.integer import accumulator_bound
from holdfast.shielding.planner import Law, Laws, Machine, cost, plan, workload
from holdfast.shielding.planner.fitting import Turn, fitted, fitted_machine
from holdfast.shielding.planner.laws import sizes, wire_bytes
from holdfast.shielding.planner.machine import _here, _Layers, _small
from holdfast.shielding.planner.small import pieces
from holdfast.shielding.planner.workload import Node
from holdfast.shielding.product import planes_for
from tests.unit.shielding.graph.nets import NETS, inputs

NODE = Node(name="conv", operation="conv2d", sources=("x",), macs=2000 * 9, inner=9, channels=20, taken=700, given=2000,
            weights=180, bound=2**23 - 1)  # fmt: skip
# one price a part, so that a sum names what it is made of
MACHINE = Machine(
    trusted=Laws(conv2d=Law(base=1.0), linear=Law(base=1e9)),
    open=Laws(conv2d=Law(base=10.0), linear=Law(base=1e9)),
    worker=Laws(conv2d=Law(base=100.0), linear=Law(base=1e9)),
    masked=Laws(conv2d=Law(output=0.05), linear=Law(base=1e9)),  # a plane of the node: 100
    check=Laws(conv2d=Law(base=1e3), linear=Law(base=1e9)),
    step=1e9,
    elements=1e-9,
    pads=1e-9,
    bandwidth=1.0,
    crossing=1e4,
    handling=Law(base=0.5),
    masks=Law(base=1e5),
)


@functools.cache
def graph(name: str) -> IntegerModel:
    return export(NETS[name][0](), inputs(name, 1), inputs(name, 4))


@pytest.mark.parametrize(
    ("placement", "seconds", "offline", "sent"),
    [
        ("trusted", 0.5 + 1.0, 0.0, 0),
        ("exposed", 0.5 + 10.0, 0.0, 0),
        ("verified", 0.5 + 1e4 + 8700.0 + 100.0 + 1e3, 0.0, 700 + 8000),
        ("blinded", 0.5 + 1e4 + 10_100.0 + 300.0 + 1e3 + 1e5, 300.0, 3 * 700 + 8000),
        ("probed", 0.5 + 1e4 + 9400.0 + 200.0 + 1e5, 200.0, 2 * 700 + 8000),
    ],
)
def test_every_part_is_counted_once(placement: str, seconds: float, offline: float, sent: int) -> None:
    found = cost(NODE, placement, MACHINE)  # type: ignore[arg-type]
    assert found.seconds == pytest.approx(seconds, rel=1e-12)
    assert (found.offline, found.bytes) == (offline, sent)
    assert found.crossings == (placement not in ("trusted", "exposed"))


@pytest.mark.parametrize(("bound", "planes"), [(127, 1), (128, 2), (2**15, 3), (2**23 - 1, 3), (2**23, 4)])
def test_a_blinded_node_costs_the_planes_that_its_bound_asks_for(bound: int, planes: int) -> None:
    found = cost(replace(NODE, bound=bound), "blinded", MACHINE)
    assert (found.bytes, found.offline) == (planes * 700 + 8000, pytest.approx(100.0 * planes))


def test_what_sessions_send_is_what_plans_count() -> None:
    for layer, node in zip(
        integer_layers(graph("mobilenet")).values(), workload(graph("mobilenet")).linear(), strict=True
    ):
        assert node.bound == layer.bound
        planes = planes_for(accumulator_bound(layer.codes, layer.top_code, layer="x"))
        assert cost(node, "blinded", MACHINE).bytes == planes * node.taken + 4 * node.given


def test_a_plane_costs_what_a_product_in_the_clear_does_where_nothing_else_was_measured() -> None:
    law = Law(base=1.0, mac=2.0, operand=3.0, weight=4.0, output=5.0, input=6.0)
    cruder = replace(MACHINE, worker=Laws(conv2d=law, linear=law), masked=None).blinded().conv2d
    once, four = (cruder.seconds(inner=2, channels=3, outputs=12, inputs=7, planes=planes) for planes in (1, 4))
    assert four - once == 3 * (2.0 * 24 + 3.0 * 8 + 5.0 * 12 + 6.0 * 7)  # the call and the weights are there once


def test_small_work_goes_by_the_law_of_its_family_and_else_by_its_elements() -> None:
    node = Node(name="pool", operation="max_pool2d", sources=("x",), taken=400, given=100, reason="none", family="pool")
    by_law = replace(MACHINE, small={"pool": Law(base=1.0, input=2.0, output=3.0)})
    assert cost(node, "trusted", by_law).seconds == 1.0 + 800.0 + 300.0
    rates = replace(MACHINE, step=7.0, elements=10.0)
    assert cost(node, "trusted", rates).seconds == 7.0 + 10.0
    grouped = replace(node, operation="depthwise", family="grouped", macs=900)
    assert cost(grouped, "trusted", replace(MACHINE, small={"grouped": Law(mac=1.0)})).seconds == 900.0
    assert cost(grouped, "trusted", rates).seconds == 7.0 + 10.0 + 90.0


def test_a_total_is_the_sum_of_its_nodes_and_of_what_enters_and_leaves() -> None:
    model = graph("mobilenet")
    for rule in ("slalom", "none", "whole"):
        made = plan(model, rule, machine=MACHINE)
        nodes = sum(cost(row.node, row.placement, MACHINE).seconds for row in made.rows)
        ways = 2 * (MACHINE.crossing / 2) + 4 * (3 * 16 * 16 + 5) / MACHINE.bandwidth if rule == "none" else 0.0
        assert made.total.seconds == pytest.approx(nodes + ways, rel=1e-12)


@pytest.mark.parametrize("name", sorted(NETS))
def test_every_family_that_a_network_has_is_measured(name: str) -> None:
    measured = {piece.family for piece in pieces()}
    for node in workload(graph(name)).nodes:
        assert (node.family == "") == node.linear
        assert node.linear or node.family in measured


def test_pieces_are_as_large_as_they_say() -> None:
    for piece in pieces():
        output = piece.call(*piece.inputs)
        assert isinstance(output, torch.Tensor)
        assert output.numel() == piece.given
        assert piece.family not in ("product", "grouped") or piece.macs > 0


def test_what_a_session_took_is_taken_apart_and_nothing_is_counted_twice() -> None:
    """Turns whose times follow known laws: the machine fitted to them predicts each turn as it was."""
    layers = _Layers()
    model = int8_model(layers, torch.zeros(1, 1))
    product, check = Law(base=2e-5, mac=4e-12, output=2e-10), Law(base=3e-5, output=1e-9)
    handling, masks = Law(base=1e-5, output=1e-9, input=2e-9), Law(base=5e-5, output=1e-9, input=3e-9)
    crossing, bandwidth = 2e-4, 4e9

    def priced(law: Law, turn: Turn) -> float:
        return sum(price * size for price, size in zip(law.prices(), turn.sizes, strict=True))

    here, there, whole = [], [], {}
    for name, layer in integer_layers(model).items():
        turn = _here(layer, layers.images[0])
        turn.least = {"product": priced(product, turn), "handling": priced(handling, turn)}
        word = name.partition(".")[0]
        planes = planes_for(layer.bound) if word == "blinded" else 1
        remote = Turn(turn.sizes, f"{word} {layer.geometry.kind}", dict, planes)
        way = crossing + wire_bytes(planes, turn.sizes[5], turn.sizes[4]) / bandwidth
        own = turn.least["handling"] + priced(check, turn) + (priced(masks, turn) if word == "blinded" else 0.0)
        tiny = turn.sizes[1] == 1.0
        answered = way + (0.0 if tiny else product.base + planes * (turn.least["product"] - product.base))
        whole[id(remote)] = own + answered
        remote.least = {"remote": answered, "wait": answered, "check": priced(check, turn),
                        "masks": priced(masks, turn)}  # fmt: skip
        there.append(remote)
        here += [turn] if word == "verified" else []
    small = [_small(piece) for piece in pieces()]
    for turn in small:
        turn.least = {"call": 1e-6 + 1e-9 * turn.sizes[4]}
    machine = fitted_machine(here, there, small)
    assert machine.crossing == pytest.approx(crossing, rel=1e-4)
    assert machine.bandwidth == pytest.approx(bandwidth, rel=1e-3)
    blinded = [turn for turn in there if turn.kind.startswith("blinded")]
    assert {turn.planes for turn in blinded} == {3, 4}
    for turn in (*there[:15], *blinded):
        node = Node(name="x", operation=turn.kind.split()[1], sources=(), macs=1, taken=int(turn.sizes[5]),
                    inner=round(turn.sizes[1] / turn.sizes[4]), given=int(turn.sizes[4]),
                    channels=round(turn.sizes[3] * turn.sizes[4] / turn.sizes[1]),
                    bound=2 ** (8 * turn.planes - 1) - 1)  # fmt: skip
        word = turn.kind.partition(" ")[0]
        assert cost(node, word, machine).seconds == pytest.approx(whole[id(turn)], rel=0.05)  # type: ignore[arg-type]
    assert machine.masks is not None
    assert all(priced(machine.masks, turn) == pytest.approx(turn.least["masks"], rel=0.01) for turn in blinded)


def test_a_price_that_is_not_asked_for_stays_zero() -> None:
    found = fitted([sizes(9, 16, 100, 70), sizes(90, 16, 1000, 10)], [1e-3, 2e-3], columns=(0, 4))
    assert (found.mac, found.operand, found.weight, found.input) == (0.0, 0.0, 0.0, 0.0)
    assert found.base > 0


def test_laws_of_small_work_are_read_back_and_bad_ones_refused() -> None:
    machine = replace(MACHINE, small={"pool": Law(base=1.0)})
    assert Machine.from_json(machine.to_json()) == machine
    with pytest.raises(InvalidConfig, match=r"the law small\.pool"):
        Machine.from_json(machine.to_json() | {"small": {"pool": {"base": 1.0}}})
    with pytest.raises(InvalidConfig, match="no object of laws"):
        Machine.from_json(machine.to_json() | {"small": [1.0]})
    assert Machine.from_json(replace(machine, masked=None, masks=None, handling=None).to_json()).masks is None
