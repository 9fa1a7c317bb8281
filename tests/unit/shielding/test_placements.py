"""Who computes what, by name; and every way in which an answer can be for something else."""

from __future__ import annotations

import socket
from typing import Any

import pytest
import torch
from torch import Tensor

from holdfast.errors import IntegrityError, InvalidConfig, NoSuchSite
from holdfast.numerics.bits import bit_equal
from holdfast.shielding import shield
from holdfast.shielding.transport import Frame, Kind
from tests.unit.shielding.nets import images, integer_net, session_with


def test_each_layer_runs_where_it_is_placed_and_the_result_is_the_same() -> None:
    seen: dict[str, tuple[int, ...]] = {}

    def record(question: Frame, answer: Frame, _: socket.socket) -> Frame:
        if question.kind is Kind.RUN and question.body is not None:
            seen[question.header["layer"]] = tuple(question.body.shape)
        return answer

    model = integer_net()
    with session_with(model, record, placements={"stem": "trusted", "body": "verified"}) as session:
        assert bit_equal(session(images(2)), model(images(2)))
        assert session.placements == {"stem": "trusted", "body": "verified", "down": "blinded", "head": "blinded"}
        assert [site.name for site in session.offload_sites()] == ["body", "down", "head"]
        session.prepare(3)
    assert set(seen) == {"body", "down", "head"}
    assert seen["body"] == (1, 2, 8, 8, 8)  # codes in the clear: one plane
    assert seen["down"] == (3, 2, 8, 8, 8)  # three planes of residues: its accumulators are below 2**23


def test_a_verified_layer_is_checked_as_a_blinded_one_is() -> None:
    def lie(question: Frame, answer: Frame, _: socket.socket) -> Frame:
        if answer.kind is not Kind.RESULT or answer.body is None or answer.header["layer"] != "body":
            return answer
        return Frame(answer.kind, answer.header, answer.body ^ 1)

    with session_with(integer_net(), lie, placements="verified") as session:
        with pytest.raises(IntegrityError, match="'body'"):
            session(images(1))
        assert session.closed


def test_the_worker_reads_codes_of_a_verified_layer_and_only_of_that() -> None:
    """The page says so in as many words; this is what it means."""
    seen: dict[str, Tensor] = {}

    def record(question: Frame, answer: Frame, _: socket.socket) -> Frame:
        if question.kind is Kind.RUN and question.body is not None:
            seen[question.header["layer"]] = question.body
        return answer

    model = integer_net()
    codes = model.stem.encode(images(4))
    with session_with(model, record, placements={"stem": "verified"}) as session:
        session(images(4))
    assert torch.equal(seen["stem"][0], codes)
    assert seen["body"].unique().numel() == 256


def test_senseless_placements_are_refused_before_a_worker_starts() -> None:
    with pytest.raises(NoSuchSite, match="'neck' is no integer layer"):
        shield(integer_net(), placements={"neck": "trusted"})
    with pytest.raises(InvalidConfig, match="not 'open'"):
        shield(integer_net(), placements={"stem": "open"})  # type: ignore[dict-item]
    with pytest.raises(InvalidConfig, match="nothing to offload"):
        shield(integer_net(), placements="trusted")
    with pytest.raises(InvalidConfig, match="needs mutual TLS"):
        shield(integer_net(), "grpc:localhost:1")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"placements": ["stem"]}, r"placements are \['stem'\]"),
        ({"placements": 3}, "placements are 3"),
        *[({"timeout": value}, "a time-out is") for value in (0, -1, float("nan"), float("inf"), "1", True, 1e9)],
        *[({"memory": value}, "a memory limit") for value in (1.5, True, "1G", 0, -5)],
        ({"worker": None}, "a worker is a word or an address"),
        ({"worker_options": "--fault"}, "worker options are"),
        ({"worker_options": 3}, "worker options are"),
    ],
)
def test_arguments_of_another_kind_are_one_clear_error_and_no_worker_starts(
    monkeypatch: pytest.MonkeyPatch, wrong: dict[str, Any], message: str
) -> None:
    def start(*_: object) -> None:
        pytest.fail("a worker was started")

    monkeypatch.setattr("holdfast.shielding.opening.SpawnedWorker", start)
    with pytest.raises(InvalidConfig, match=message) as caught:
        shield(integer_net(), **wrong)
    assert caught.value.hint


def echoing(**change: object) -> object:
    def answer(question: Frame, reply: Frame, _: socket.socket) -> Frame:
        return Frame(reply.kind, {**reply.header, **change}, reply.body) if reply.kind is Kind.RESULT else reply

    return answer


@pytest.mark.parametrize(
    ("change", "meaning"),
    [
        ({"nonce": "00" * 16}, "another session"),
        ({"sequence": 0}, "old answer"),
        ({"mask": 123456}, "another mask"),
        ({"layer": "body"}, "another layer"),
    ],
)
def test_an_answer_for_something_else_is_refused_with_its_meaning(change: dict[str, object], meaning: str) -> None:
    session = session_with(integer_net(), echoing(**change))  # type: ignore[arg-type]
    with pytest.raises(IntegrityError, match=f"answered {next(iter(change))}") as caught:
        session(images(1))
    assert meaning in caught.value.hint
    assert session.closed


def test_answers_in_another_order_are_refused() -> None:
    held: list[Frame] = []

    def reorder(question: Frame, reply: Frame, _: socket.socket) -> Frame:
        if reply.kind is Kind.RESULT:
            held.append(reply)
            return held[0]
        return reply

    session = session_with(integer_net(), reorder)
    with pytest.raises(IntegrityError):
        session(images(1))  # stem is right, body is answered with stem's
    assert session.closed


def test_a_greeting_relayed_from_another_session_is_refused() -> None:
    def relay(question: Frame, reply: Frame, _: socket.socket) -> Frame:
        return Frame(reply.kind, {**reply.header, "nonce": "ab" * 16}) if reply.kind is Kind.HELLO else reply

    with pytest.raises(IntegrityError, match="answered nonce"):
        session_with(integer_net(), relay)


def test_the_kernels_of_both_sides_are_on_record() -> None:
    with session_with(integer_net()) as session:
        assert session.kernels["trusted"] == session.kernels["worker"]
        assert session.kernels["device"] == "cpu"
