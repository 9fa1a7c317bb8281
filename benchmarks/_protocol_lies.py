"""Lies that are not about numbers: answers that are old, misdirected, cut short, or of somebody else.

Each is told about every offloaded layer of a small network, by a worker that computes honestly and then tells it. What
counts is that the session raises, and that nothing computed from the answer is returned.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any

from tests.unit.shielding.nets import images, integer_net, session_with
from torch import Tensor

from holdfast.errors import IntegrityError, WorkerUnreachable
from holdfast.shielding import integer_layers
from holdfast.shielding.transport import Frame, Kind
from holdfast.shielding.transport.wire import encode

Answer = Callable[[Frame, Frame, socket.socket], Frame | None]


def replay(layer: str) -> Answer:
    """Answer the second question with the body of the first, under the right sequence number and mask."""
    held: dict[str, Tensor] = {}

    def answer(question: Frame, reply: Frame, _: socket.socket) -> Frame:
        if not _about(reply, layer) or reply.body is None:
            return reply
        return Frame(reply.kind, reply.header, held.setdefault(layer, reply.body))

    return answer


def reorder(layer: str) -> Answer:
    """Answer with the frame that answered the question before."""
    held: list[Frame] = []

    def answer(question: Frame, reply: Frame, _: socket.socket) -> Frame:
        if reply.kind is not Kind.RESULT:
            return reply
        held.append(reply)
        return held[-2] if _about(reply, layer) and len(held) > 1 else reply

    return answer


def truncate(layer: str) -> Answer:
    """Send half of a frame, and go."""

    def answer(question: Frame, reply: Frame, stream: socket.socket) -> Frame | None:
        if not _about(reply, layer):
            return reply
        whole = b"".join(encode(reply))
        stream.sendall(whole[: len(whole) // 2])
        stream.close()
        return None

    return answer


def shorten(layer: str) -> Answer:
    """Send a whole frame with one sample, channel or element less."""

    def answer(question: Frame, reply: Frame, _: socket.socket) -> Frame:
        if not _about(reply, layer) or reply.body is None:
            return reply
        return Frame(reply.kind, reply.header, reply.body[..., :-1].contiguous())

    return answer


def _saying(layer: str, key: str, change: Callable[[Any], Any]) -> Answer:
    def answer(question: Frame, reply: Frame, _: socket.socket) -> Frame:
        if not _about(reply, layer):
            return reply
        return Frame(reply.kind, {**reply.header, key: change(reply.header[key])}, reply.body)

    return answer


def stale_mask(layer: str) -> Answer:
    """Claim that the answer is to the message under the mask before."""
    return _saying(layer, "mask", lambda number: number - 1)


def wrong_nonce(layer: str) -> Answer:
    """Answer as in another session."""
    return _saying(layer, "nonce", lambda nonce: nonce[::-1] if nonce != nonce[::-1] else "00" * 16)


def wrong_layer(layer: str) -> Answer:
    """Claim that the answer is about another layer."""
    return _saying(layer, "layer", lambda name: f"{name}x")


def relay(layer: str) -> Answer:
    """Greet with the nonce of another session, as somebody would who passes its answers on."""

    def answer(question: Frame, reply: Frame, _: socket.socket) -> Frame:
        return Frame(reply.kind, {**reply.header, "nonce": "ab" * 16}) if reply.kind is Kind.HELLO else reply

    return answer


KINDS = (replay, reorder, truncate, shorten, stale_mask, wrong_nonce, wrong_layer, relay)


def _about(reply: Frame, layer: str) -> bool:
    return reply.kind is Kind.RESULT and reply.header["layer"] == layer


def refusals(turns: int) -> Iterator[dict[str, Any]]:
    """Yield for each kind of lie how often it was told, about all layers, and how often it was refused."""
    model = integer_net()
    layers = list(integer_layers(model))
    for kind in KINDS:
        told = refused = 0
        for turn in range(turns):
            for layer in layers[1:] if kind is reorder else layers:  # nothing comes before the first
                told += 1
                refused += _refused(kind(layer), turn)
        yield {"lie": kind.__name__, "told": told, "refused": refused}


def _refused(answer: Answer, turn: int) -> bool:
    try:
        with session_with(integer_net(), answer) as session:
            for question in range(2):
                session(images(1, 2 * turn + question))
    except (IntegrityError, WorkerUnreachable):
        return True
    return False
