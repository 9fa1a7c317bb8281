"""One-time pads: uniform to the worker, exact to us, and never used twice."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from holdfast.errors import IntegrityError, InvalidConfig
from holdfast.seeds import Entropy, Seed
from holdfast.services.worker import Worker
from holdfast.shielding import PadStore, int8_model, integer_layers, shield
from holdfast.shielding.integer import accumulator_bound
from holdfast.shielding.product import (
    Geometry,
    centred,
    integer_product,
    planes_for,
    planes_product,
    ring_product,
)
from holdfast.shielding.transport.wire import Frame, Kind
from tests.unit.shielding.nets import images, integer_net, session_with

GEOMETRY = Geometry(kind="linear", out_channels=3, in_channels=16)
WEIGHTS = torch.arange(48, dtype=torch.int8).view(3, 16) - 24


def store() -> PadStore:
    return PadStore(WEIGHTS, GEOMETRY, Entropy())


def byte_p_values(planes: Tensor) -> list[float]:
    """Chi-squared p-values of each byte plane against the uniform law."""
    counts = [np.bincount(plane.flatten().numpy().astype(np.int64) + 128, minlength=256) for plane in planes]
    return [float(stats.chisquare(count).pvalue) for count in counts]


def test_unblinding_gives_the_product_modulo_two_to_the_32() -> None:
    codes = torch.randint(-127, 128, (5, 16), dtype=torch.int8)
    pad = store().take((16,), 5)
    answer = planes_product(pad.blind(codes), WEIGHTS, GEOMETRY)
    assert torch.equal(pad.unblind(answer), ring_product(codes.int(), WEIGHTS, GEOMETRY))


def test_a_mask_is_used_once() -> None:
    pads = store()
    pad = pads.take((16,), 1)
    with pytest.raises(InvalidConfig, match="one answer"):
        pad.unblind(torch.zeros(1, 3, dtype=torch.int32))
    pad = pads.take((16,), 1)
    codes = torch.zeros(1, 16, dtype=torch.int8)
    message = pad.blind(codes)
    with pytest.raises(InvalidConfig, match="one message only"):
        pad.blind(codes)
    pad.unblind(planes_product(message, WEIGHTS, GEOMETRY))
    with pytest.raises(InvalidConfig, match="one answer"):
        pad.unblind(torch.zeros(1, 3, dtype=torch.int32))


def test_prepared_masks_leave_the_store_and_differ() -> None:
    pads = store()
    pads.prepare((16,), 6)
    zero = torch.zeros(4, 16, dtype=torch.int8)
    first = pads.take((16,), 4).blind(zero)
    assert pads.available((16,)) == 2
    second = pads.take((16,), 4).blind(zero)
    assert pads.available((16,)) == 0
    assert len({tuple(row) for row in torch.cat([first, second], 1).transpose(0, 1).flatten(1).tolist()}) == 8


def test_a_mask_of_another_shape_is_refused() -> None:
    with pytest.raises(InvalidConfig, match="does not cover"):
        store().take((16,), 2).blind(torch.zeros(3, 16, dtype=torch.int8))


@pytest.mark.parametrize("source", [Seed(1), 1, torch.Generator()])
def test_masks_from_a_seed_are_refused(source: object) -> None:
    with pytest.raises(InvalidConfig, match="needs Entropy"):
        PadStore(WEIGHTS, GEOMETRY, source)  # type: ignore[arg-type]
    with pytest.raises(InvalidConfig, match="needs Entropy"):
        shield(integer_net(), entropy=source)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_what_the_worker_receives_is_uniform_even_for_a_constant_input(value: float) -> None:
    seen: list[Tensor] = []

    def record(question: Frame, answer: Frame, _: object) -> Frame:
        if question.kind is Kind.RUN and question.body is not None:
            seen.append(question.body.flatten(1))
        return answer

    with session_with(integer_net(), record) as session:
        for _ in range(20):
            session(torch.full((16, 1, 8, 8), value))
    messages = torch.cat(seen, 1)
    assert messages.numel() > 100_000
    assert min(byte_p_values(messages)) > 1e-6
    # the test can tell: the same traffic without blinding is far from uniform
    seen.clear()
    with session_with(integer_net(), record, placements="verified") as session:
        session(torch.full((16, 1, 8, 8), value))
    assert max(byte_p_values(torch.cat(seen, 1))) < 1e-6


def test_no_two_messages_share_a_mask() -> None:
    seen: list[tuple[int, ...]] = []

    def record(question: Frame, answer: Frame, _: object) -> Frame:
        if question.kind is Kind.RUN and question.body is not None:
            seen.extend(tuple(row.flatten().tolist()) for row in question.body.transpose(0, 1))
        return answer

    with session_with(integer_net(), record) as session:
        session.prepare(10)
        for _ in range(4):
            session(images(1).expand(4, 1, 8, 8))
    assert len(set(seen)) == len(seen) == 4 * 4 * 4


@pytest.mark.parametrize(
    ("bound", "planes"),
    [(0, 1), (127, 1), (128, 2), (2**15 - 1, 2), (2**15, 3), (2**23 - 1, 3), (2**23, 4), (2**31 - 1, 4)],
)
def test_as_many_planes_as_the_proved_bound_has_bytes(bound: int, planes: int) -> None:
    assert planes_for(bound) == planes
    with pytest.raises(InvalidConfig, match="does not fit int32"):
        planes_for(bound + 2**31)


@pytest.mark.parametrize(("inner", "planes"), [(1, 2), (2, 2), (3, 3), (520, 3), (521, 4)])
def test_the_largest_accumulators_survive_the_narrowest_ring(inner: int, planes: int) -> None:
    """520 products of 127 by 127 are the last that three bytes hold: 8,387,080 of 8,388,607."""
    geometry = Geometry(kind="linear", out_channels=2, in_channels=inner)
    weights = torch.tensor([[127], [-127]], dtype=torch.int8).repeat(1, inner)
    codes = torch.tensor([[127], [-127], [0]], dtype=torch.int8).repeat(1, inner)
    assert planes_for(accumulator_bound(weights, 127, layer="fc")) == planes
    for _ in range(20):
        pad = PadStore(weights, geometry, Entropy(), planes=planes).take((inner,), 3)
        product = pad.unblind(centred(planes_product(pad.blind(codes), weights, geometry), planes))
        assert torch.equal(product, integer_product(codes, weights, geometry))


def narrow_net() -> nn.Module:
    """A linear layer for each number of bytes: bounds of 127, about 2**14, 2**21 and 2**24."""
    net = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 2), nn.Linear(2, 600), nn.Linear(600, 1200), nn.Linear(1200, 3))
    model = int8_model(net.eval(), torch.rand(8, 1))
    with torch.no_grad():
        model.get_submodule("0").codes.fill_(1)  # type: ignore[operator]
    return model


def test_each_layer_travels_in_its_own_ring_and_stays_bit_equal() -> None:
    seen: dict[str, int] = {}

    def record(question: Frame, answer: Frame, _: object) -> Frame:
        if question.kind is Kind.RUN and question.body is not None:
            seen[question.header["layer"]] = len(question.body)
        return answer

    model, x = narrow_net(), torch.rand(5, 1)
    with session_with(model, record) as session:
        session.prepare(2)
        assert torch.equal(session(x), model(x))
    assert seen == {
        name: planes_for(accumulator_bound(layer.codes, 127, layer=name))
        for name, layer in integer_layers(model).items()
    }
    assert set(seen.values()) == {1, 2, 3, 4}


@pytest.mark.parametrize("layer", ["0", "1", "2", "3"])
def test_a_flip_of_any_bit_of_an_answer_is_caught_also_above_the_ring(layer: str) -> None:
    with session_with(narrow_net()) as session:
        for place in range(32):
            with (
                session.tap({layer: lambda y, place=place: y ^ torch.tensor(2**place).to(torch.int32)}),
                pytest.raises(IntegrityError, match=repr(layer)),
            ):
                session(torch.rand(2, 1))


def test_weights_loaded_later_get_the_ring_that_they_need() -> None:
    model = narrow_net()
    assert planes_for(model.get_submodule("0").bound) == 2  # type: ignore[arg-type]
    with torch.no_grad():
        model.get_submodule("1").codes.fill_(-128)  # type: ignore[operator]
    x = torch.rand(3, 1)
    with session_with(model) as session:
        assert torch.equal(session(x), model(x))


def test_a_worker_reduces_to_one_to_four_bytes_only() -> None:
    worker = Worker()
    worker.answer(Frame(Kind.LOAD, {"layer": "a", "geometry": GEOMETRY.to_json()}, WEIGHTS))
    message = torch.ones(3, 1, 16, dtype=torch.int8)
    for count in (0, 5, -1, True, "3", None):
        with pytest.raises(InvalidConfig, match="residues have 1 to 4 bytes"):
            worker.answer(Frame(Kind.RUN, {"layer": "a", "bytes": count}, message))
