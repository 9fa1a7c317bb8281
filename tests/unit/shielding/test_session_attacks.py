"""Sessions used as they should not be: by threads at once, by a forked process, with nothing in them."""

from __future__ import annotations

import stat
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from torch import nn

from holdfast.errors import InvalidConfig, StorageError
from holdfast.numerics.bits import bit_equal
from holdfast.seeds import Entropy
from holdfast.shielding import MaskStream, PadStore, Session, int8_model, opening, shield
from holdfast.shielding.product import Geometry
from holdfast.shielding.sealing import Budget, Spill, VolatileCounter
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


def test_two_sessions_with_one_spill_folder_leave_each_other_alone_and_nothing_behind(tmp_path: Path) -> None:
    model = integer_net()
    options = {"memory": 16_000, "spill": tmp_path / "spill"}
    with one_worker_each(model, **options) as first, one_worker_each(model, **options) as second:
        first.prepare(6)
        second.prepare(6)
        assert len(spilled(tmp_path)) > 10
        folders = list((tmp_path / "spill").iterdir())
        assert [stat.S_IMODE(folder.stat().st_mode) for folder in folders] == [0o700, 0o700]
        for session in (second, first):
            assert bit_equal(session(images(6)), model(images(6)))
        assert not spilled(tmp_path)
        second.prepare(4)
    assert not list((tmp_path / "spill").iterdir())


def spilled(folder: Path) -> list[Path]:
    return list(folder.glob("spill/*/*.pad"))


def one_worker_each(model: nn.Module, *, memory: int | None = None, spill: Path | None = None) -> Session:
    """Open a session as ``shield`` does, with a worker in a thread."""
    return session_with(model, budget=Budget(memory), spill=None if spill is None else Spill(spill, limit=2**30))


def test_a_forked_process_that_ends_takes_no_vectors_away(tmp_path: Path) -> None:
    spill = Spill(tmp_path, limit=2**20)
    number = spill.put(torch.ones(3, dtype=torch.int32))
    assert in_a_fork(spill.close) == "None"
    assert spill.take(number, (3,)).tolist() == [1, 1, 1]
    spill.close()
    with pytest.raises(StorageError, match="cannot spill to"):
        spill.put(torch.ones(3, dtype=torch.int32))


@pytest.mark.parametrize("memory", [0, -5])
def test_a_limit_that_is_none_is_refused_before_a_worker_starts(memory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "SpawnedWorker", None)
    with pytest.raises(InvalidConfig, match=f"a memory limit of {memory} bytes holds nothing"):
        shield(integer_net(), memory=memory)


def test_too_little_memory_for_one_sample_is_refused() -> None:
    with pytest.raises(InvalidConfig, match=r"one sample takes .* and 100 are allowed") as caught:
        one_worker_each(integer_net(), memory=100)
    assert "allow more memory" in caught.value.hint


@pytest.mark.parametrize("samples", [0, 1, 3, 20])
def test_the_limit_holds_for_what_is_prepared_and_what_is_in_use(samples: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is drawn ahead or on demand; a batch goes in parts, and stays bit-equal."""
    most, take = 0, Budget.take

    def watched(self: Budget, size: int) -> None:
        nonlocal most
        take(self, size)
        most = max(most, self.used)

    monkeypatch.setattr(Budget, "take", watched)
    model, limit = integer_net(), 12_000
    with one_worker_each(model, memory=limit) as session:
        if samples == 20:
            with pytest.raises(StorageError, match="unblinding store is full"):
                session.prepare(samples)
        elif samples:
            with suppress(StorageError):
                session.prepare(samples)
        for _ in range(2):
            assert bit_equal(session(images(7)), model(images(7)))
        budget = next(iter(session._layers.values())).store._budget
    assert 0 < most <= limit
    assert budget.used == 0


def test_a_sample_beyond_the_calibrated_size_and_the_memory_is_refused_and_the_session_goes_on() -> None:
    model = int8_model(nn.Sequential(nn.Linear(6, 3)), torch.rand(4, 5, 6))
    with one_worker_each(model, memory=4 * 5 * (6 + 3)) as session:
        with pytest.raises(StorageError, match="the memory for masks is full"):
            session(torch.rand(1, 6, 6))
        x = torch.rand(3, 5, 6)
        assert bit_equal(session(x), model(x))


def test_preparing_fills_what_there_is_to_the_last_vector() -> None:
    """Not in blocks of sixteen: 20,000 bytes hold four vectors of 2,048 beside a sample on its way, and more."""
    geometry = Geometry(kind="linear", in_channels=16, out_channels=512)
    weights = torch.ones(512, 16, dtype=torch.int8)
    budget = Budget(20_000)
    pads = PadStore(weights, geometry, Entropy(), budget=budget)
    with pytest.raises(StorageError, match="is full: 16384 of 20000 bytes, 2112 of them for a sample"):
        pads.prepare((16,), 20)
    assert pads.available((16,)) == (20_000 - 2112) // 2048 == 8
    pad = pads.take((16,), 1)
    assert budget.used == 16384 + 64
    pad.blind(torch.zeros(1, 16, dtype=torch.int8))
    pad.unblind(torch.zeros(1, 512, dtype=torch.int32))
    assert budget.used == 7 * 2048
    del pad
    assert budget.used == 7 * 2048
    pads.take((16,), 2)  # forgotten at once
    assert budget.used == 5 * 2048


def test_what_is_prepared_in_little_memory_is_ready_in_every_layer() -> None:
    with one_worker_each(integer_net(), memory=15_000) as session:
        with pytest.raises(StorageError, match="unblinding store is full"):
            session.prepare(100_000)
        ready = [item.store.available(item.layer.sample_shape) for item in session._layers.values()]
        assert min(ready) >= 1
        assert max(ready) <= min(ready) + 1
