"""A pool among liars, the dead and the silent: answers are true, or errors; and each is counted for what it was."""

from __future__ import annotations

import json
import threading

import pytest
import torch

from holdfast.errors import InvalidConfig, StorageError, WorkerUnreachable
from holdfast.numerics.bits import bit_equal
from holdfast.shielding import Session
from holdfast.shielding.gateway import Opened, Refused, Settings, sources
from holdfast.shielding.gateway.jobs import Job
from tests.unit.shielding.gateway.places import (
    MODEL,
    Gate,
    Nobody,
    Threaded,
    dying,
    gateway,
    lying,
    silent,
    until,
)
from tests.unit.shielding.nets import images


def outcomes(pool: object) -> dict[str, int]:
    counts = pool.metrics.requests._counts  # type: ignore[attr-defined]
    return {outcome: count for outcome, count in counts.items() if count}


def test_many_at_once_and_each_gets_its_own_answer() -> None:
    with gateway(Threaded("a"), Threaded("b")) as gate:
        jobs = [gate.submit(images(2, seed)) for seed in range(30)]
        for seed, job in enumerate(jobs):
            assert bit_equal(job.wait(), MODEL(images(2, seed)))
        assert outcomes(gate) == {"answered": 30}
        assert gate.metrics.samples.count() == 60
        assert gate.pool.outstanding == 0


def test_a_liar_is_quarantined_and_its_request_answered_truly_by_another() -> None:
    lines: list[str] = []
    liar, honest = Threaded("liar", lying, patience=1), Threaded("honest")
    with gateway(liar, audit=lines) as gate:
        job = gate.submit(images(1))
        with pytest.raises(Refused, match="no worker left to trust") as caught:
            job.wait()
        assert caught.value.code.http == 503
        until(lambda: gate.pool.states()["quarantined"] == 1)
        with pytest.raises(Refused, match="no worker left"):
            gate.submit(images(1))
        assert not gate.readiness()[0]
        assert outcomes(gate) == {"no-worker": 2}
    liar = Threaded("liar", lying, patience=1)
    with gateway(liar, honest, audit=lines) as gate:
        for seed in range(20):
            assert bit_equal(gate.submit(images(1, seed)).wait(), MODEL(images(1, seed)))
            if liar.quarantined:
                break
        until(lambda: gate.pool.states()["quarantined"] == 1)
        assert (gate.metrics.failures.count("lied"), gate.metrics.retries.count()) == (1, 1)
        assert liar.opened == 1
        assert gate.readiness()[0]
    events = [json.loads(line) for line in lines]
    caught_lies = [event for event in events if event["event"] == "worker-quarantined"]
    assert [(event["worker"], event["source_quarantined"]) for event in caught_lies] == [("liar", "yes")] * 2
    assert all("'stem'" in event["error"] for event in caught_lies)
    assert not any("tensor" in line for line in lines)


def test_a_worker_of_our_own_that_lied_is_replaced_by_a_fresh_one() -> None:
    source = Threaded("spawn", lying, patience=3)
    source._answers = (lying, lambda question, answer, stream: answer)
    with gateway(source) as gate:
        assert bit_equal(gate.submit(images(2)).wait(), MODEL(images(2)))
        assert (source.opened, gate.metrics.failures.count("lied"), gate.metrics.retries.count()) == (2, 1, 1)


def test_a_worker_that_dies_in_the_middle_costs_a_retry_and_nothing_else() -> None:
    source = Threaded("mortal", dying, lambda question, answer, stream: answer)
    with gateway(source) as gate:
        assert bit_equal(gate.submit(images(2)).wait(), MODEL(images(2)))
        assert (gate.metrics.failures.count("lost"), gate.metrics.retries.count()) == (1, 1)
        assert outcomes(gate) == {"answered": 1}


def test_a_request_whose_workers_all_die_is_an_error_after_as_many_attempts_as_allowed() -> None:
    with gateway(Threaded("mortal", dying), attempts=3) as gate:
        with pytest.raises(Refused, match="3 workers failed, one after another") as caught:
            gate.submit(images(1)).wait()
        assert caught.value.code.http == 502
        assert (gate.metrics.failures.count("lost"), gate.metrics.retries.count()) == (3, 2)
        assert outcomes(gate) == {"failed": 1}


def test_a_silent_worker_is_given_up_in_time_for_another() -> None:
    source = Threaded("sleepy", silent, lambda question, answer, stream: answer, timeout=0.2)
    with gateway(source) as gate:
        assert bit_equal(gate.submit(images(1)).wait(), MODEL(images(1)))
        assert gate.metrics.failures.count("lost") == 1


def test_a_request_times_out_and_a_late_answer_changes_nothing() -> None:
    slow = Gate()
    with gateway(Threaded("slow", slow), timeout=0.3, worker_timeout=0.3) as gate:
        first, second = gate.submit(images(1)), gate.submit(images(1))
        assert slow.asked.wait(20)
        for job in (first, second):
            with pytest.raises(Refused, match=r"no answer within 0\.3 seconds") as caught:
                job.wait()
            assert caught.value.code.http == 504
        slow.open.set()
        assert bit_equal(gate.submit(images(1)).wait(), MODEL(images(1)))
        assert outcomes(gate) == {"timed-out": 2, "answered": 1}
        assert gate.pool.outstanding == 0


def test_a_full_queue_refuses_at_once_and_says_when_to_come_again() -> None:
    slow = Gate()
    with gateway(Threaded("slow", slow), queue=2) as gate:
        jobs = [gate.submit(images(1))]
        assert slow.asked.wait(20)
        jobs += [gate.submit(images(1)) for _ in range(2)]
        with pytest.raises(Refused, match="2 requests are waiting already") as caught:
            gate.submit(images(1))
        assert caught.value.code.http == 429
        assert 1 <= (caught.value.retry_after or 0) <= 60
        assert "holdfast_queue_depth 2\n" in gate.metrics.text()
        slow.open.set()
        for job in jobs:
            assert bit_equal(job.wait(), MODEL(images(1)))
        assert outcomes(gate) == {"answered": 3, "overloaded": 1}


def test_a_queue_of_expired_requests_has_room() -> None:
    with gateway(Nobody("nobody"), queue=1, timeout=0.05, worker_timeout=0.05) as gate:
        for _ in range(3):
            with pytest.raises(Refused, match="no answer within"):
                gate.submit(images(1)).wait()
        assert outcomes(gate) == {"timed-out": 3}
        until(lambda: gate.metrics.failures.count("unreachable") >= 2)
        assert not gate.readiness()[0]


def test_draining_answers_what_was_accepted_and_refuses_the_rest() -> None:
    slow = Gate()
    with gateway(Threaded("slow", slow)) as gate:
        job = gate.submit(images(1))
        assert slow.asked.wait(20)
        gate.drain()
        assert not gate.drained
        with pytest.raises(Refused, match="shutting down") as caught:
            gate.submit(images(1))
        assert caught.value.code.http == 503
        slow.open.set()
        assert bit_equal(job.wait(), MODEL(images(1)))
        until(lambda: gate.drained)
        assert outcomes(gate) == {"answered": 1, "draining": 1}


def test_closing_leaves_nobody_waiting() -> None:
    slow = Gate()
    gate = gateway(Threaded("slow", slow))
    with gate:
        jobs = [gate.submit(images(1)) for _ in range(3)]
        assert slow.asked.wait(20)
        gate.pool.stop()
        for job in jobs:
            with pytest.raises(Refused, match="shut down first"):
                job.wait()
        slow.open.set()
    assert outcomes(gate) == {"draining": 3}
    assert all(not seat.is_alive() for seat in gate.pool._seats)


def test_a_model_that_breaks_is_an_error_of_that_request_alone() -> None:
    with gateway(Threaded("a")) as gate:
        with pytest.raises(Refused, match="could not compute this") as caught:
            gate.submit(torch.zeros(1, 5, 8, 8)).wait()  # past the signature, which would have refused it
        assert caught.value.code.http == 500
        assert bit_equal(gate.submit(images(1)).wait(), MODEL(images(1)))


def test_a_machine_that_can_start_nothing_just_now_is_asked_again() -> None:
    class Exhausted(Threaded):
        def open(self) -> Opened:
            if self.opened < 3:
                self.opened += 1
                raise OSError(24, "Too many open files")
            return super().open()

    source = Exhausted("exhausted")
    made = gateway(source)
    made.pool._seats[0]._failed = 5000  # after a long night
    with made as gate:
        assert bit_equal(gate.submit(images(1)).wait(), MODEL(images(1)))
        assert gate.metrics.failures.count("unreachable") == 3


def test_a_worker_that_is_ended_while_it_starts_is_no_failure() -> None:
    """The last word of a gateway is that it stopped."""
    lines: list[str] = []
    begun, ended = threading.Event(), threading.Event()

    class Slow(Threaded):
        def open(self) -> Opened:
            begun.set()
            ended.wait(30)
            raise WorkerUnreachable("the worker exited with code -9 before it listened")

    made = gateway(Slow("slow"), audit=lines)
    with made:
        assert begun.wait(30)
        made.pool.stopping.set()
        ended.set()
    assert made.metrics.failures.count("unreachable") == 0
    assert "worker-unreachable" not in "".join(lines)


def test_a_session_that_breaks_while_idle_is_opened_again() -> None:
    lines: list[str] = []
    source = Threaded("a")
    made = gateway(source, audit=lines, prepare=1)
    seat, idle = made.pool._seats[0], []

    def broken(opened: Opened) -> bool:
        idle.append(opened)
        if len(idle) == 1:
            raise RuntimeError("out of memory")
        return True

    seat._idle = broken  # type: ignore[method-assign]
    with made as gate:
        until(lambda: source.opened == 2 and gate.readiness()[0])
        assert bit_equal(gate.submit(images(1)).wait(), MODEL(images(1)))
    assert [json.loads(line)["event"] for line in lines].count("session-broken") == 1


def test_idle_sessions_keep_masks_ready() -> None:
    with gateway(Threaded("a"), prepare=5) as gate:
        until(lambda: gate.pool._seats[0]._opened is not None)
        session = gate.pool._seats[0]._opened.session  # type: ignore[union-attr]
        until(lambda: session.timings["prepare"] > 0)
        store = session._layers["stem"].store
        assert store is not None
        until(lambda: store.available((1, 8, 8)) == 5)
        assert bit_equal(gate.submit(images(2)).wait(), MODEL(images(2)))


def test_preparing_without_end_keeps_neither_requests_nor_the_end_waiting() -> None:
    with gateway(Threaded("a"), prepare=10_000_000, timeout=20.0) as gate:
        until(lambda: gate.pool._seats[0]._opened is not None)
        session = gate.pool._seats[0]._opened.session  # type: ignore[union-attr]
        until(lambda: session.timings["prepare"] > 0)
        for seed in range(3):
            assert bit_equal(gate.submit(images(2, seed)).wait(), MODEL(images(2, seed)))
    assert not gate.pool._seats[0].is_alive()


def test_masks_that_do_not_fit_are_said_once_and_the_session_serves_on(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    asked: list[int] = []

    def limited(session: Session, samples: int) -> None:
        asked.append(samples)
        if samples > 16:
            raise StorageError("the store is full")

    monkeypatch.setattr(Session, "prepare", limited)
    with gateway(Threaded("a"), prepare=64, audit=lines) as gate:
        until(lambda: len(asked) > 8)
        assert bit_equal(gate.submit(images(1)).wait(), MODEL(images(1)))
    assert asked[:5] == [8, 16, 24, 8, 16]
    assert max(asked[3:]) == 16
    assert [json.loads(line)["event"] for line in lines].count("masks-limited") == 1


def test_a_job_ends_once_whoever_ends_it() -> None:
    ended: list[str] = []
    job = Job(images(1), 10.0, lambda _, outcome: ended.append(outcome))
    ends = [lambda: job.answer(images(1)), job.expire, lambda: job.refuse(Refused("no"))] * 20
    threads = [threading.Thread(target=end) for end in ends]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ended) == 1
    assert job.over


@pytest.mark.parametrize("limit", [{"queue": 0}, {"timeout": 0.0}, {"attempts": -1}, {"prepare": -1},
                                   {"timeout": 1.0, "worker_timeout": 2.0}, {"timeout": float("nan")}])  # fmt: skip
def test_limits_that_are_none_are_refused(limit: dict[str, float]) -> None:
    with pytest.raises(InvalidConfig):
        Settings(**limit)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("workers", "message"),
    [
        ((), "needs workers"),
        (("spawn", "spawn"), "named once"),
        (("tcp:1",), "not 'tcp:1'"),
        (("unix:",), "not 'unix:'"),
    ],
)
def test_workers_that_are_none_are_refused(workers: tuple[str, ...], message: str) -> None:
    with pytest.raises(InvalidConfig, match=message):
        sources(MODEL, workers)


def test_sessions_at_one_address_share_its_quarantine() -> None:
    one, two, three = sources(MODEL, ["spawn", "unix:/w.sock"], sessions=2)
    three.lied()
    assert (one.quarantined, two.quarantined, three.quarantined) == (False, False, True)
    for _ in range(2):
        one.lied()
    one.answered()
    for _ in range(2):
        one.lied()
    assert not one.quarantined
    one.lied()
    assert one.quarantined
