"""A worker that lies: in one bit, with old answers, in another order, or in another shape. None gets through."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from holdfast.errors import HoldfastError, IntegrityError, InvalidConfig, WorkerUnreachable
from holdfast.numerics.bits import bit_equal
from holdfast.shielding import shield
from holdfast.shielding.transport import SpawnedWorker
from holdfast.shielding.transport.wire import Frame, Kind, encode
from tests.unit.shielding.nets import images, integer_net, session_with


def test_fifty_one_bit_lies_of_a_real_process_are_all_caught() -> None:
    model, caught = integer_net(), 0
    worker = SpawnedWorker(("--fault", "bit-flip", "--seed", "11"), once=False)
    try:
        worker.connect(60).close()
        for turn in range(50):
            with shield(model, worker.address) as session:
                with pytest.raises(IntegrityError, match="wrong product for layer 'stem'"):
                    session(images(1 + turn % 3, turn))
                caught += 1
                assert session.closed
                with pytest.raises(InvalidConfig, match="closed"):
                    session(images(1))
    finally:
        worker.close()
    assert caught == 50


def test_a_rare_liar_is_caught_at_its_first_lie_and_honest_answers_are_right() -> None:
    """Bit errors at a low rate: some answers are honest; those give the exact output, the others raise."""
    model, lies, right = integer_net(), 0, 0
    worker = SpawnedWorker(("--fault", "bit-errors:rate=0.00001", "--seed", "3"), once=False)
    try:
        worker.connect(60).close()
        for turn in range(40):
            with shield(model, worker.address) as session:
                try:
                    output = session(images(1, turn))
                except IntegrityError:
                    lies += 1
                else:
                    right += 1
                    assert bit_equal(output, model(images(1, turn)))
    finally:
        worker.close()
    assert lies > 3
    assert right > 3


def altering(change: Callable[[Tensor], Tensor], layer: str) -> Callable[[Frame, Frame, socket.socket], Frame]:
    def answer(question: Frame, reply: Frame, _: socket.socket) -> Frame:
        if reply.kind is not Kind.RESULT or reply.header["layer"] != layer or reply.body is None:
            return reply
        return Frame(reply.kind, reply.header, change(reply.body))

    return answer


LIES = {
    "lowest bit": lambda y: y ^ torch.nn.functional.one_hot(torch.tensor(3), y.numel()).view_as(y).int(),
    "sign": lambda y: y ^ -(2**31),
    "negated": lambda y: -y,
    "all zero": torch.zeros_like,
    "samples swapped": lambda y: y.flip(0),
    "channels swapped": lambda y: y.flip(1),
    "off by one": lambda y: y + 1,
    "multiple of 2^16": lambda y: y + 2**16,
    "first sample repeated": lambda y: y[:1].expand_as(y),
}


@pytest.mark.parametrize("layer", ["stem", "down", "head"])
@pytest.mark.parametrize("lie", LIES)
def test_any_altered_answer_is_refused_and_names_its_layer(lie: str, layer: str) -> None:
    with session_with(integer_net(), altering(LIES[lie], layer)) as session:
        with pytest.raises(IntegrityError, match=repr(layer)):
            session(images(3))
        assert session.closed


def test_replayed_answers_are_refused() -> None:
    """The same question again, answered with the recorded old answer under the new sequence number."""
    recorded: dict[str, Tensor] = {}

    def replay(question: Frame, reply: Frame, _: socket.socket) -> Frame:
        if reply.kind is not Kind.RESULT or reply.body is None:
            return reply
        return Frame(reply.kind, reply.header, recorded.setdefault(reply.header["layer"], reply.body))

    with session_with(integer_net(), replay) as session:
        session(images(2))
        with pytest.raises(IntegrityError, match="'stem'"):
            session(images(2))


def test_stale_and_misdirected_answers_are_refused() -> None:
    for change in ({"sequence": 0}, {"layer": "body"}, {"sequence": None}):

        def misdirect(question: Frame, reply: Frame, _: socket.socket, change: dict[str, object] = change) -> Frame:
            return Frame(reply.kind, {**reply.header, **change}, reply.body) if reply.kind is Kind.RESULT else reply

        session = session_with(integer_net(), misdirect)
        with pytest.raises(IntegrityError, match="when asked for"):
            session(images(1))
        assert session.closed


@pytest.mark.parametrize("shape", [(8, 8, 8), (1, 8, 64), (1, 8, 8, 8, 1), (2, 8, 8, 8), (0,)])
def test_answers_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    def reshape(y: Tensor) -> Tensor:
        return torch.zeros(shape, dtype=torch.int32)

    session = session_with(integer_net(), altering(reshape, "stem"))
    with pytest.raises(IntegrityError, match="'stem'"):
        session(images(1))
    assert session.closed


@pytest.mark.parametrize("keep", [0, 3, 19, 40, 200])
def test_truncated_answers_are_refused_without_a_hang(keep: int) -> None:
    def cut(question: Frame, reply: Frame, stream: socket.socket) -> Frame | None:
        if reply.kind is not Kind.RESULT:
            return reply
        stream.sendall(b"".join(encode(reply))[:keep])
        stream.close()
        return None

    session = session_with(integer_net(), cut)
    with pytest.raises(WorkerUnreachable, match="is gone"):
        session(images(1))
    assert session.closed


@pytest.mark.parametrize("kind", [Kind.HELLO, Kind.LOADED, Kind.RUN, Kind.BYE, Kind.ERROR])
def test_another_kind_of_answer_is_refused(kind: Kind) -> None:
    def confuse(question: Frame, reply: Frame, _: socket.socket) -> Frame:
        return Frame(kind, {"message": "no"}) if reply.kind is Kind.RESULT else reply

    session = session_with(integer_net(), confuse)
    with pytest.raises(HoldfastError, match="the worker"):
        session(images(1))
    assert session.closed


def test_trailing_bytes_desynchronise_the_liar_not_the_session() -> None:
    """An answer with a second one appended: the next question meets the stale frame and refuses it."""

    def double(question: Frame, reply: Frame, stream: socket.socket) -> Frame:
        if reply.kind is Kind.RESULT:
            stream.sendall(b"".join(encode(reply)))
        return reply

    session = session_with(integer_net(), double)
    with pytest.raises(IntegrityError):
        session(images(1))
    assert session.closed


def test_a_liar_gets_no_second_try_in_one_session() -> None:
    tries = []

    def lie(y: Tensor) -> Tensor:
        tries.append(1)
        return y + 1

    session = session_with(integer_net(), altering(lie, "body"))
    for _ in range(3):
        with pytest.raises((IntegrityError, InvalidConfig)):
            session(images(1))
    assert len(tries) == 1
