"""Campaigns in lockstep: the table of whole passes, on any executor, with guards, and when memory runs out."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import holdfast
from holdfast._kernels import device as devices
from holdfast.execution import CampaignReport, campaign
from holdfast.execution.engines import Batching, Hooks, Lockstep, build_engine
from holdfast.execution.engines.lockstep import shelf as shelves
from holdfast.execution.engines.lockstep import track as tracks
from holdfast.execution.engines.lockstep.graphs import Replay
from holdfast.execution.engines.lockstep.lane import Lane
from holdfast.execution.plan import Trial
from holdfast.execution.watchdog import Hang
from holdfast.hardening import harden, method_of
from holdfast.models import build_architecture, card, sites
from tests.unit.execution.suffix.nets import build
from tests.unit.execution.suffix.test_bit_equality import draw, same

DATA = holdfast.dataset("digits", split="test").take(8)
SITE = "activations:conv1"


def table(model: nn.Module, engine: str, *, at: str = SITE, batch: int = 16, **options: object) -> CampaignReport:
    return campaign(model, DATA, holdfast.BitFlip(), at=at, trials=96, seed=3, engine=engine, batch=batch, **options)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return build_architecture("digits-cnn", seed=0).eval()


def test_full_batches_of_one_site_give_the_table_of_whole_passes_to_the_last_digit(model: nn.Module) -> None:
    assert table(model, "lockstep", rerun=True).rows == table(model, "hooks", rerun=True).rows


def test_faults_in_weights_share_batches_and_give_the_failures_of_single_passes(model: nn.Module) -> None:
    failed = {"critical", "due"}
    struck = {"at": "weights", "bits": "exponent-high"}
    ours, plain = table(model, "lockstep", **struck), table(model, "hooks", batch=1, **struck)
    assert [row.outcome in failed for row in ours.rows] == [row.outcome in failed for row in plain.rows]
    assert any(row.outcome in failed for row in plain.rows)
    for one, other in zip(ours.rows, plain.rows, strict=True):
        if {one.outcome, other.outcome} == {"sdc"}:
            assert one.max_absolute == pytest.approx(other.max_absolute, rel=1e-3, abs=1e-5)
        elif one.outcome != other.outcome:  # one rounding apart
            assert max(one.max_absolute or 0, other.max_absolute or 0) < 1e-5


def test_processes_give_the_same_table(model: nn.Module) -> None:
    inline = table(model, "lockstep", at="activations,weights")
    assert table(model, "lockstep", at="activations,weights", executor="processes:2").rows == inline.rows


def test_streams_and_memory_change_no_bit(model: nn.Module) -> None:
    expected = table(model, "lockstep:rows=8", at="activations,weights").rows
    assert table(model, "lockstep:rows=8,streams=3,memory=1", at="activations,weights").rows == expected


@pytest.mark.parametrize("at", [SITE, "weights"])
def test_guards_count_the_same_events(model: nn.Module, at: str) -> None:
    train = holdfast.dataset("digits", split="train")
    tough = harden(model, method_of("range:at=activations,slack=1.01").calibrated(model, train.take(16)))
    ours, plain = table(tough, "lockstep", at=at), table(tough, "hooks", at=at, batch=1 if at == "weights" else 16)
    assert [row.guard_events for row in ours.rows] == [row.guard_events for row in plain.rows]
    assert any(row.guard_events for row in plain.rows)


@pytest.mark.slow
def test_auto_computes_in_lockstep_where_kernels_run(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "KINDS", ["cpu"])
    report = table(model, "auto")
    assert report.plan["computed"] == "lockstep"
    assert report.rows == table(model, "lockstep").rows


class Centred(nn.Module):
    """Takes the mean of a batch away from each row."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x.flatten(1))
        return y - y.mean(0)


@pytest.mark.slow
def test_auto_says_why_rows_cannot_share_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "KINDS", ["cpu"])
    report = table(Centred().eval(), "auto", at="activations:inner", batch=8)
    assert report.plan["computed"] == "hooks"
    assert "or on other rows" in report.plan["computed_because"]


def test_memory_that_runs_out_halves_the_batch_and_says_so(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    faulty = tracks.Track.faulty

    def scarce(self: tracks.Track, trials: object) -> Tensor:
        if self.count > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return faulty(self, trials)

    expected = table(model, "lockstep:rows=4", at="activations,weights").rows
    monkeypatch.setattr(tracks.Track, "faulty", scarce)
    with caplog.at_level(logging.WARNING):
        found = table(model, "lockstep", at="activations,weights").rows
    assert found == expected
    assert [r.args for r in caplog.records if "in lockstep" in r.msg] == [(16, 8), (8, 4)]


def test_memory_that_runs_out_while_capturing_halves_the_batch_too(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    capture = tracks.capture

    def scarce(net: nn.Module, sample: Tensor, **options: bool) -> object:
        if len(sample) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return capture(net, sample, **options)

    expected = table(model, "lockstep:rows=2").rows
    monkeypatch.setattr(tracks, "capture", scarce)
    with caplog.at_level(logging.WARNING):
        assert table(model, "lockstep", batch=8).rows == expected
    assert [r.args for r in caplog.records if "in lockstep" in r.msg] == [(8, 4), (4, 2)]


def test_engines_that_halve_are_told_from_those_that_do_not(model: nn.Module) -> None:
    images = lambda numbers: DATA.batch(torch.tensor(list(numbers)))[0]
    assert isinstance(build_engine("lockstep", model, images), Batching)
    assert not isinstance(Hooks(model, images), Batching)
    auto = build_engine("auto", model, images)
    assert isinstance(auto, Batching)
    assert (auto.rows, auto.halve()) == (0, False)


class Again:
    """Stands in for graphs of a GPU: repeats a segment by running it again, in the memory of its neighbours."""

    def __init__(self) -> None:
        self.replays = 0

    def record(self, body: Replay) -> Replay:
        body()

        def replay() -> None:
            self.replays += 1
            body()

        return replay


@pytest.mark.parametrize("name", ["resnet", "vit", "gpt-explicit"])
def test_segments_that_are_replayed_give_the_bits_of_steps(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, samples = build(name)
    images = lambda numbers: samples[list(numbers)].clone()
    recorder = Again()
    with torch.no_grad():
        eager, replaying = (
            build_engine("lockstep:rows=4", model, images),
            build_engine("lockstep:rows=4", model, images),
        )
        assert isinstance(eager, Lockstep)
        assert isinstance(replaying, Lockstep)
        trials = draw(sites(model, samples[0]), 3, seed=6)
        replaying.prepare(0)
        track = next(iter(replaying._tracks.values()))
        assert [lane.record({0: track.example}, recorder) for lane in track.lanes] == [None]
        for block in eager.blocks(trials, 4):
            assert all(same(a, b) for a, b in zip(replaying.faulty(block), eager.faulty(block), strict=True))
    assert recorder.replays > 100


def test_what_cannot_be_captured_is_said_and_run_step_by_step(model: nn.Module) -> None:
    class Refusing:
        def record(self, body: Replay) -> Replay:
            raise RuntimeError("operation not permitted when stream is capturing\nmore")

    images = lambda numbers: DATA.batch(torch.tensor(list(numbers)))[0]
    engine = build_engine("lockstep:rows=4", model, images)
    assert isinstance(engine, Lockstep)
    with torch.no_grad():
        engine.prepare(0)
        track = next(iter(engine._tracks.values()))
        lane: Lane = track.lanes[0]
        reason = lane.record({0: track.example}, Refusing())
        assert str(reason).endswith("cannot be captured: operation not permitted when stream is capturing")
        assert not lane.recorded
        assert "no CUDA stream" in str(lane.record({0: track.example}))
        trial = Trial(0, draw(sites(model, DATA.example), 8)[5].flips, 0)
        assert engine.faulty((trial,)).shape == (1, 10)


def test_guards_of_a_replayed_segment_count_its_batch(model: nn.Module) -> None:
    train = holdfast.dataset("digits", split="train")
    tough = harden(model, method_of("range:at=activations,slack=1.01").calibrated(model, train.take(16)))
    images = lambda numbers: DATA.batch(torch.tensor(list(numbers)))[0]
    eager, replaying = build_engine("lockstep:rows=4", tough, images), build_engine("lockstep:rows=4", tough, images)
    trials = draw([site for site in sites(tough, DATA.example) if site.kind == "activations"] * 4, 8)
    assert isinstance(eager, Lockstep)
    assert isinstance(replaying, Lockstep)
    with torch.no_grad():
        replaying.prepare(0)
        track = next(iter(replaying._tracks.values()))
        assert track.lanes[0].record({0: track.example}, Again()) is None
        for block in eager.blocks(trials, 4):
            seen = []
            for engine in (eager, replaying):
                engine.faulty(block)
                seen.append([guard.events.tolist() for guard in card(tough).guards])
            assert seen[0] == seen[1]
            assert all(len(counts) == len(block) for counts in seen[0])


class Static:
    """Stands in for CUDA graphs in one more way: each replay leaves its results where the one before left them."""

    def record(self, body: Replay) -> Replay:
        variables = inspect.getclosurevars(body).nonlocals
        given, counts = variables["given"], variables["counts"]
        body()
        first, counted = dict(given), dict(counts)

        def replay() -> None:
            body()
            kept = [(first[cell], fresh) for cell, fresh in given.items()]
            kept += [pair for number, fresh in counts.items() for pair in zip(counted[number], fresh, strict=True)]
            for old, fresh in kept:
                if old is not None and old is not fresh:
                    old.copy_(fresh)
            given.update(first)
            counts.update(counted)

        return replay


@pytest.mark.parametrize("size", [4, 8, 16])
def test_counts_outlive_the_replay_of_the_next_batch(size: int) -> None:
    train = holdfast.dataset("digits", split="train")
    model = build_architecture("digits-cnn", seed=0).eval()
    tough = harden(model, method_of("range:at=activations,slack=1.01").calibrated(model, train.take(16)))
    images = lambda numbers: DATA.batch(torch.tensor(list(numbers)))[0]
    eager, static = (build_engine("lockstep:rows=4", tough, images) for _ in range(2))
    assert isinstance(static, Lockstep)
    with torch.no_grad():
        trials = draw([site for site in sites(tough, DATA.example) if site.kind == "activations"] * 4, 8)
        static.prepare(0)
        track = next(iter(static._tracks.values()))
        assert track.lanes[0].record({0: track.example}, Static()) is None
        ordered = [trial for block in eager.blocks(trials, 4) for trial in block]
        for start in range(0, len(ordered), size):
            block, seen = tuple(ordered[start : start + size]), []
            for engine in (eager, static):
                engine.faulty(block)
                seen.append([guard.events.tolist() for guard in card(tough).guards])
            assert seen[0] == seen[1]


@pytest.mark.parametrize("cut", [0, 3])
def test_a_golden_pass_that_is_broken_off_leaves_nothing_behind(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch, cut: int
) -> None:
    """Neither a deadline nor an interrupt may leave inputs known whose rows were never written."""
    data = holdfast.dataset("digits", split="test").take(64)
    images = lambda numbers: data.batch(torch.tensor(list(numbers)))[0]
    broken, sound = (build_engine("lockstep:rows=4,memory=1", model, images) for _ in range(2))
    keep, seen = shelves.Shelf.keep, []

    def breaking(self: shelves.Shelf, number: int, held: dict[int, Tensor], places: Tensor) -> None:
        seen.append(number)
        if len(seen) == cut + 1:
            raise Hang
        keep(self, number, held, places)

    with torch.no_grad():
        for start in range(0, 64, 4):
            broken.golden(tuple(range(start, start + 4)))
        monkeypatch.setattr(shelves.Shelf, "keep", breaking)
        with pytest.raises(Hang):
            broken.golden((4, 5, 6, 7))
        for inputs in ((4, 5, 6, 7), (60, 61, 62, 63), (0, 5, 62, 7)):
            assert same(broken.golden(inputs), sound.golden(inputs))


def counting_passes(monkeypatch: pytest.MonkeyPatch, most: int) -> list[int]:
    """Return a list that grows with every golden batch, and let the test fail instead of going on without end."""
    golden, passes = tracks.Track._golden, []

    def counted(self: tracks.Track, numbers: object, samples: Tensor) -> None:
        passes.append(self.count)
        if len(passes) > most:
            pytest.fail("golden rows are computed over and over")
        golden(self, numbers, samples)

    monkeypatch.setattr(tracks.Track, "_golden", counted)
    return passes


def test_a_block_of_more_inputs_than_there_is_room_for_is_computed_in_parts(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, data = holdfast.dataset("digits", split="train"), holdfast.dataset("digits", split="test").take(40)
    tough = harden(model, method_of("range:at=activations,slack=1.01").calibrated(model, train.take(16)))
    images = lambda numbers: data.batch(torch.tensor(list(numbers)))[0]
    monkeypatch.setattr(Lockstep, "_budget", lambda self, sample: 1 if self._memory else 2**30)
    tight, ample = (
        build_engine("lockstep:rows=4,memory=1", tough, images),
        build_engine("lockstep:rows=4", tough, images),
    )
    found = draw([site for site in sites(tough, data.example) if site.kind == "activations"] * 4, 40)
    block = tuple(replace(trial, input=place) for place, trial in enumerate(found[:24]))
    block += block[2:5]
    with torch.no_grad():
        tight.prepare(0)
        ample.prepare(0)
        assert next(iter(tight._tracks.values())).shelf.room == 4
        expected = ample.golden(tuple(range(40))), ample.faulty(block)
        counts = [guard.events.tolist() for guard in card(tough).guards]
        counting_passes(monkeypatch, 32)
        assert same(tight.golden(tuple(range(40))), expected[0])
        assert [len(guard.events) for guard in card(tough).guards] == [40] * len(counts)
        assert same(tight.faulty(block), expected[1])
        assert [guard.events.tolist() for guard in card(tough).guards] == counts


def test_a_campaign_that_ran_out_of_memory_once_ends_although_little_is_left(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    faulty, failed = tracks.Track.faulty, []

    def once(self: tracks.Track, trials: Sequence[Trial]) -> Tensor:
        if len({trial.input for trial in trials}) > 8 and not failed:
            failed.append(len(trials))
            raise torch.OutOfMemoryError("CUDA out of memory")
        return faulty(self, trials)

    data = holdfast.dataset("digits", split="test").take(40)
    run = lambda engine: campaign(
        model, data, holdfast.BitFlip(), at="activations", trials=96, seed=3, engine=engine, batch=16
    )
    expected = run("lockstep:rows=8").rows
    monkeypatch.setattr(tracks.Track, "faulty", once)
    monkeypatch.setattr(Lockstep, "_budget", lambda self, sample: 1)
    counting_passes(monkeypatch, 1000)
    assert run("lockstep").rows == expected
    assert failed == [16]
