"""A golden pass that does not fit is thinned and computed again where needed; the bits stay."""

from __future__ import annotations

import pytest
import torch

from holdfast.execution.engines.suffix.capture import capture
from holdfast.execution.engines.suffix.golden import Golden
from holdfast.execution.engines.suffix.replay import Replay
from holdfast.models import sites
from tests.unit.execution.suffix.nets import build
from tests.unit.execution.suffix.test_bit_equality import draw, engines_of, same


@pytest.fixture(autouse=True)
def _no_grad() -> object:
    with torch.no_grad():
        yield


@pytest.mark.parametrize("name", ["resnet", "vit"])
@pytest.mark.parametrize("part", [0.5, 0.1, 0.001])
def test_a_part_of_the_memory_gives_the_same_bits(name: str, part: float) -> None:
    model, samples = build(name)
    tape = capture(model, samples[:1])
    full = Golden(tape, samples[:1].clone())
    largest = max(holder.nbytes for holder in full._kept.values())
    small = Golden(tape, samples[:1].clone(), budget=int(full.bytes * part))
    assert small.bytes <= max(full.bytes * part, 3 * largest)
    replay, trials = Replay(model, tape), draw(sites(model, samples[0]), 1)[::5]
    for trial in trials:
        assert same(replay.outputs([trial], [small]), replay.outputs([trial], [full]))
        small.forget()
    assert same(small.output(), full.output())


def test_old_passes_make_room_for_new_ones() -> None:
    model, samples = build("resnet")
    _, suffix = engines_of(model, samples.repeat(5, 1, 1, 1))
    suffix._budget = 3 * 2**20
    golden = suffix.golden(tuple(range(15)))
    assert 1 <= len(suffix._passes) < 15
    assert same(golden[:3], golden[3:6])
    assert same(suffix.golden((0, 1, 2)), golden[:3])


def test_an_input_is_computed_anew_twice_and_then_taken_from_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[object] = []
    plain = Golden._run
    model, samples = build("vit")
    _, suffix = engines_of(model, samples)
    suffix.prepare(0)  # captures, with passes of its own
    monkeypatch.setattr(Golden, "_run", lambda self: (ran.append(self), plain(self)))
    for expected in ([0, 1], [0, 1, 0, 1], [0, 1, 0, 1]):
        suffix.golden((0, 1, 0, 0))
        assert len(ran) == len(expected)
    suffix.faulty(tuple(draw(sites(model, samples[0])[:4], 1)))
    assert len(ran) == 4
