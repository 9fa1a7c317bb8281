"""Sessions with a real second process: bit-equal results, timings, campaigns, and clean ends."""

from __future__ import annotations

import copy
import os
import pickle
import signal
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from holdfast.data import dataset
from holdfast.errors import (
    HoldfastError,
    IntegrityError,
    InvalidConfig,
    NoSuchSite,
    UnsupportedVersion,
    WorkerUnreachable,
)
from holdfast.models import sites
from holdfast.numerics.bits import bit_equal
from holdfast.shielding import PHASES, Session, int8_model, shield
from holdfast.shielding.transport import SpawnedWorker
from holdfast.shielding.transport.wire import Frame, Kind
from tests.unit.shielding.nets import digits_net, images, integer_net, session_with


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """One honest worker process that serves many sessions."""
    worker = SpawnedWorker(once=False)
    worker.connect(60).close()
    yield worker.address
    worker.close()


@pytest.mark.parametrize("batch", [1, 16])
def test_bit_equal_through_a_real_process(address: str, batch: int) -> None:
    model = integer_net()
    with shield(model, address) as session:
        for seed in range(3):
            assert bit_equal(session(images(batch, seed)), model(images(batch, seed)))


def test_bit_equal_on_real_digits_and_on_tokens(address: str) -> None:
    data = dataset("digits", split="test").take(64)
    batch, _ = data.all()
    model = int8_model(digits_net(), data)
    with shield(model, address) as session:
        assert bit_equal(session(batch), model(batch))
    tokens = int8_model(
        nn.Sequential(nn.LayerNorm(12), nn.Linear(12, 7), nn.GELU(), nn.Linear(7, 3)), torch.rand(4, 5, 12)
    )
    with shield(tokens, address) as session:
        for length in (5, 9):
            x = torch.rand(2, length, 12)
            assert bit_equal(session(x), tokens(x))


def test_without_blinding_the_answers_are_the_same_and_still_checked(address: str) -> None:
    model = integer_net()
    with shield(model, address, placements="verified") as session:
        assert bit_equal(session(images(2)), model(images(2)))
        with session.tap({"body": lambda y: y ^ 1}), pytest.raises(IntegrityError):
            session(images(1))


def test_the_model_is_left_alone_and_a_session_cannot_be_copied(address: str) -> None:
    model = integer_net()
    before = list(model.state_dict())
    with shield(model, address) as session:
        assert list(model.state_dict()) == before
        for copying in (copy.deepcopy, pickle.dumps):
            with pytest.raises(InvalidConfig, match="session cannot"):
                copying(session)


def test_a_spawned_worker_has_a_private_folder_and_dies_with_the_session() -> None:
    session = shield(integer_net())
    worker = session._owner
    assert worker is not None
    assert stat.S_IMODE(worker.path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(worker.path.stat().st_mode) == 0o600
    session(images(1))
    session.close()
    session.close()
    assert worker.process.poll() is not None
    assert not worker.path.parent.exists()
    with pytest.raises(InvalidConfig, match="closed"):
        session(images(1))


def test_a_crashed_worker_is_reported_and_ends_the_session() -> None:
    session = shield(integer_net(), timeout=30)
    session(images(1))
    os.kill(session._owner.process.pid, signal.SIGKILL)
    session._owner.process.wait()
    with pytest.raises(WorkerUnreachable, match="is gone") as caught:
        session(images(1))
    assert "open a new one" in caught.value.hint
    assert session.closed


def test_a_worker_that_cannot_start_says_why() -> None:
    with pytest.raises(WorkerUnreachable, match="exited with code 2 before it listened") as caught:
        shield(integer_net(), worker_options=("--fault", "no-such-fault"))
    assert "hint" in caught.value.hint or "unknown fault" in caught.value.hint


def test_nobody_listening_and_bad_addresses(tmp_path: Path) -> None:
    with pytest.raises(WorkerUnreachable, match="no worker listens") as caught:
        shield(integer_net(), f"unix:{tmp_path / 'none.sock'}")
    assert "holdfast serve worker" in caught.value.hint
    with pytest.raises(InvalidConfig, match="'spawn' or 'unix:PATH'"):
        shield(integer_net(), "tcp:1.2.3.4:5")
    with pytest.raises(InvalidConfig, match="no integer layer"):
        shield(digits_net())


def test_a_silent_worker_times_out() -> None:
    def silent(question: Frame, answer: Frame, _: object) -> Frame | None:
        return None if question.kind is Kind.RUN else answer

    session = session_with(integer_net(), silent, timeout=0.5)
    start = time.monotonic()
    with pytest.raises(WorkerUnreachable, match="did not answer within"):
        session(images(1))
    assert time.monotonic() - start < 3
    assert session.closed


def test_a_worker_of_another_version_is_named() -> None:
    def other(question: Frame, answer: Frame, _: object) -> Frame:
        return Frame(Kind.HELLO, {"tool": "9.9"})

    with pytest.raises(UnsupportedVersion, match=r"the worker is Holdfast '9\.9'"):
        session_with(integer_net(), other)


def test_timings_cover_every_phase_and_masks_can_be_prepared(address: str) -> None:
    with shield(integer_net(), address) as session:
        assert session.timings == dict.fromkeys(PHASES, 0.0)
        session.prepare(8)
        prepared = session.timings["prepare"]
        start = time.perf_counter()
        session(images(8))
        wall = time.perf_counter() - start
        spent = session.timings
        assert all(spent[phase] > 0 for phase in PHASES)
        assert sum(spent.values()) - prepared == pytest.approx(wall, rel=0.2, abs=2e-3)
        assert all(item.store.available(item.layer.sample_shape) == 0 for item in session._layers.values())


def test_offload_sites_are_the_int32_answers(address: str) -> None:
    with shield(integer_net(), address) as session:
        found = [site for site in sites(session) if site.kind == "offload"]
        assert tuple(found) == session.offload_sites()
        assert [(site.name, site.shape, site.bits) for site in found] == [
            ("stem", (8, 8, 8), 32),
            ("body", (8, 8, 8), 32),
            ("down", (12, 3, 8), 32),
            ("head", (10,), 32),
        ]
        with pytest.raises(NoSuchSite, match="'norm' is not offloaded"), session.tap({"norm": lambda y: y}):
            pass


def test_experiments_are_caught_and_the_session_goes_on(address: str) -> None:
    model = integer_net()
    with shield(model, address) as session:
        for name in ("stem", "body", "down", "head"):
            with (
                session.tap({name: lambda y: y ^ (1 << 30)}),
                pytest.raises(IntegrityError, match=repr(name)),
            ):
                session(images(2))
            session.recover()
            assert bit_equal(session(images(2)), model(images(2)))


def test_a_fault_campaign_on_offloaded_answers_detects_all(address: str) -> None:
    from holdfast.execution import campaign
    from holdfast.faults import BitFlip

    data = dataset("digits", split="test").take(8)
    with shield(int8_model(digits_net(), data), address) as session:
        report = campaign(session, data, BitFlip(), at="offload:**", trials=60, seed=0)
    assert report["detected"].value == 1.0
    assert report["detected"].n == 60
    assert set(report.by_site()) <= {
        f"{kind}{name}" for kind in ("", "offload:") for name in ("stem", "body", "down", "head")
    }


def test_every_error_has_a_sentence(address: str) -> None:
    session: Session = shield(integer_net(), address)
    session.close()
    with pytest.raises(HoldfastError) as caught:
        session(images(1))
    assert caught.value.hint
