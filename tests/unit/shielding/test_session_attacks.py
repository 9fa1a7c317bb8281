"""Sessions used as they should not be: by threads at once, by a forked process, with nothing in them."""

from __future__ import annotations

import time

import pytest
import torch
from torch import nn

from holdfast.errors import InvalidConfig
from holdfast.numerics.bits import bit_equal
from holdfast.shielding import MaskStream, PadStore, int8_model
from holdfast.shielding.sealing import VolatileCounter
from holdfast.shielding.transport.wire import Frame, Kind
from tests.unit.shielding.nets import images, integer_net, session_with
from tests.unit.shielding.test_blinding import GEOMETRY, WEIGHTS
from tests.unit.shielding.test_sealing_attacks import KEY, in_a_fork, together


def test_two_threads_take_turns_and_the_worker_is_not_accused() -> None:
    def slowly(question: Frame, answer: Frame, _: object) -> Frame:
        if question.kind is Kind.RUN:
            time.sleep(0.02)  # long enough for the other thread to ask in between
        return answer

    model, outputs = integer_net(), []
    with session_with(model, slowly) as session:
        together(lambda: outputs.append(session(images(2))))
        assert not session.closed
    assert len(outputs) == 2
    assert all(bit_equal(output, model(images(2))) for output in outputs)


def test_two_threads_that_go_past_the_session_take_turns_as_well() -> None:
    model, outputs = integer_net(), []
    with session_with(model) as session, torch.no_grad():
        together(lambda: outputs.append(session.model(images(1))))
    assert len(outputs) == 2


def test_a_forked_process_asks_nothing_and_ends_nothing() -> None:
    """It would send other inputs under masks that its parent sends inputs under."""
    model, seen = integer_net(), []

    def record(question: Frame, answer: Frame, _: object) -> Frame:
        seen.append(question.kind)
        return answer

    with session_with(model, record) as session:
        session.prepare(4)
        asked = len(seen)
        for attempt in (lambda: session(images(1)), lambda: session.prepare(8), lambda: session.model(images(1))):
            said = in_a_fork(attempt)
            assert said.startswith("InvalidConfig: a session of process ")
            assert said.endswith("by a fork")
        assert in_a_fork(session.close) == "None"
        assert len(seen) == asked
        assert bit_equal(session(images(3)), model(images(3)))


@pytest.mark.parametrize("placement", ["blinded", "verified"])
def test_an_empty_batch_goes_where_the_model_takes_it(placement: str) -> None:
    """A convolution, a linear layer, and a linear layer over no tokens."""
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
    model, asked = int8_model(net, images(8)), []

    def record(question: Frame, answer: Frame, _: object) -> Frame:
        asked.append(question.kind)
        return answer

    with session_with(model, record, placements=placement) as session:
        assert bit_equal(session(images(0)), model(images(0)))
        assert session(images(0)).shape == (0, 10)
        assert Kind.RUN not in asked
    tokens = int8_model(nn.Sequential(nn.Linear(6, 3)), torch.rand(4, 5, 6))
    with session_with(tokens, placements=placement) as session:
        assert session(torch.rand(2, 0, 6)).shape == (2, 0, 3)


def test_a_pad_over_nothing_is_a_pad() -> None:
    stream = MaskStream(KEY, VolatileCounter())
    pad = PadStore(WEIGHTS, GEOMETRY, stream).take((16,), 0)
    assert pad.blind(torch.zeros(0, 16, dtype=torch.int8)).shape == (4, 0, 16)
    assert pad.unblind(torch.zeros(0, 3, dtype=torch.int32)).shape == (0, 3)


def test_a_closed_session_stays_closed_for_every_thread() -> None:
    session = session_with(integer_net())
    together(session.close)
    with pytest.raises(InvalidConfig, match="closed"):
        session(images(1))
