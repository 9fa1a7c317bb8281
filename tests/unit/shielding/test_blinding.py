"""One-time pads: uniform to the worker, exact to us, and never used twice."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from holdfast.errors import InvalidConfig
from holdfast.seeds import Entropy, Seed
from holdfast.shielding import PadStore, shield
from holdfast.shielding.product import Geometry, planes_product, ring_product
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
