"""Requests that wait are computed together: the same bits for each, and one that fails is no other's trouble."""

from __future__ import annotations

import socket

import pytest
import torch
from torch import Tensor, nn

from holdfast.data import dataset
from holdfast.errors import WorkerUnreachable
from holdfast.models import build_architecture
from holdfast.shielding import int8_model, integer_layers
from holdfast.shielding.gateway import Opened, Refused
from holdfast.shielding.gateway.jobs import Job, Waiting
from holdfast.shielding.graph import export
from holdfast.shielding.transport import Frame, Kind
from tests.unit.shielding.gateway.places import Gate, Threaded, gateway, until
from tests.unit.shielding.nets import Answer, honest, images, session_with

TRAIN = dataset("digits", split="train").take(64)
GRAPH = export(build_architecture("digits-cnn", seed=0).eval(), TRAIN.batch(torch.tensor([0]))[0], TRAIN)


class Serves(Threaded):
    """Sessions with one model."""

    def __init__(self, model: nn.Module, *answers: Answer) -> None:
        super().__init__("a", *answers)
        self._model = model

    def open(self) -> Opened:
        answer = self._answers[min(self.opened, len(self._answers) - 1)]
        self.opened += 1
        return Opened(session_with(self._model, answer))


class Watched(Gate):
    """Opens for the first question only when it is let, and notes how many inputs each question for a layer has."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def __call__(self, question: Frame, answer: Frame, stream: socket.socket) -> Frame:
        if question.kind is Kind.RUN and question.body is not None:
            self.sizes.append(question.body.shape[1])
        return super().__call__(question, answer, stream)


def waiting_behind(made: object, gate: Gate, inputs: list[Tensor]) -> list[Job]:
    """Submit everything while the one worker is busy with something else, then let it go on."""
    first = made.submit(images(1, 99))  # type: ignore[attr-defined]
    assert gate.asked.wait(10)
    jobs = [made.submit(item) for item in inputs]  # type: ignore[attr-defined]
    gate.open.set()
    first.wait()
    return jobs


def test_requests_that_wait_are_computed_together_and_each_gets_its_own_bits() -> None:
    gate, inputs = Watched(), [images(count, count) for count in (1, 3, 2, 2, 8, 1)]
    with gateway(Serves(GRAPH, gate), batch=8) as made:
        jobs = waiting_behind(made, gate, inputs)
        for job, item in zip(jobs, inputs, strict=True):
            answer = job.wait()
            assert torch.equal(answer, GRAPH(item))
            assert answer.untyped_storage().nbytes() == answer.numel() * 4  # nothing of the others' lies behind it
        assert made.metrics.requests.count("answered") == 7
        assert made.metrics.samples.count() == 18
    assert set(gate.sizes[1:]) == {1, 8}
    assert gate.sizes.count(8) == 2 * len(integer_layers(GRAPH))  # 1 + 3 + 2 + 2, then 8, then 1


def test_without_a_batch_each_request_is_computed_for_itself() -> None:
    gate, inputs = Watched(), [images(2, seed) for seed in range(3)]
    with gateway(Serves(GRAPH, gate)) as made:
        for job, item in zip(waiting_behind(made, gate, inputs), inputs, strict=True):
            assert torch.equal(job.wait(), GRAPH(item))
    assert set(gate.sizes) == {1, 2}


class Fussy(nn.Module):
    """Cannot compute an input that is brighter than 5."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))

    def forward(self, x: Tensor) -> Tensor:
        if bool((x > 5).any()):
            raise ValueError("too bright")
        return self.body(x)


def test_one_request_that_cannot_be_computed_does_not_break_the_others() -> None:
    model, gate = int8_model(Fussy().eval(), images(8)), Watched()
    inputs = [images(1), torch.full((1, 1, 8, 8), 9.0), images(2)]
    with gateway(Serves(model, gate, honest), batch=8) as made:
        good, bad, also_good = waiting_behind(made, gate, inputs)
        assert torch.equal(good.wait(), model(inputs[0]))
        assert torch.equal(also_good.wait(), model(inputs[2]))
        with pytest.raises(Refused, match="could not compute this: ValueError") as caught:
            bad.wait()
        assert caught.value.outcome == "broken"


@pytest.mark.parametrize("how", ["lies", "dies"])
def test_a_worker_that_fails_on_a_batch_costs_each_of_it_a_retry_alone(how: str) -> None:
    gate, after = Watched(), Watched()
    after.open.set()

    def fails(question: Frame, answer: Frame, stream: socket.socket) -> Frame:
        answer = gate(question, answer, stream)
        if question.kind is Kind.RUN and question.body is not None and question.body.shape[1] > 1:
            if how == "dies":
                raise WorkerUnreachable("killed")
            answer.body.view(-1)[0] += 1  # type: ignore[union-attr]
        return answer

    inputs = [images(1, seed) for seed in range(4)]
    with gateway(Serves(GRAPH, fails, after), batch=4) as made:
        jobs = waiting_behind(made, gate, inputs)
        for job, item in zip(jobs, inputs, strict=True):
            assert torch.equal(job.wait(), GRAPH(item))
        assert [job.attempts for job in jobs] == [2] * 4
        assert made.metrics.retries.count() == 4
    assert set(after.sizes) == {1}


def test_the_queue_gives_in_order_what_fits_together() -> None:
    def job(count: int, *shape: int, tried: int = 0) -> Job:
        made = Job(torch.zeros(count, *shape), 10.0, lambda *_: None)
        made.attempts = tried
        return made

    queue = Waiting(10)
    for item in (job(2, 3), job(2, 3), job(1, 3), job(5, 3), job(1, 4), job(1, 4, tried=1), job(1, 4)):
        queue.put(item)
    taken = [[len(item.inputs) for item in queue.take(0.0, 4)] for _ in range(6)]
    assert taken == [[2, 2], [1], [5], [1], [1], [1]]
    assert queue.take(0.01, 4) == []


def test_a_request_that_ended_while_it_waited_is_not_computed() -> None:
    gate, inputs = Watched(), [images(1, seed) for seed in range(3)]
    with gateway(Serves(GRAPH, gate), batch=8) as made:
        first = made.submit(images(1, 99))
        assert gate.asked.wait(10)
        jobs = [made.submit(item) for item in inputs]
        jobs[1].expire()
        gate.open.set()
        assert torch.equal(first.wait(), GRAPH(images(1, 99)))
        assert torch.equal(jobs[2].wait(), GRAPH(inputs[2]))
        until(lambda: jobs[0].over)
    assert set(gate.sizes) == {1, 2}
