"""Batches on several streams: what flips stored bits has the device to itself, and all else may overlap.

Stand-ins take the place of streams: each remembers which batches are done before what it is given next.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from holdfast.execution.engines.lockstep.load import Load
from holdfast.execution.engines.lockstep.track import Track
from holdfast.execution.plan import Trial
from holdfast.models import sites
from tests.unit.execution.suffix.nets import build
from tests.unit.execution.suffix.test_bit_equality import draw


class StandIn:
    """A stream, as far as its order goes."""

    device = torch.device("cuda", 0)

    def __init__(self) -> None:
        self.done: set[int] = set()  # batches that are done before what it is given next

    def wait_stream(self, other: StandIn) -> None:
        self.done |= other.done


@pytest.fixture
def current(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    main = StandIn()

    @contextmanager
    def launching(_: StandIn) -> Iterator[None]:
        yield

    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: main)
    monkeypatch.setattr(torch.cuda, "stream", launching)
    return main


def before(track: Track, monkeypatch: pytest.MonkeyPatch) -> list[tuple[bool, set[int]]]:
    """Note of each batch whether it flips stored bits, and which batches are done when it starts."""
    found: list[tuple[bool, set[int]]] = []
    run = Track._run

    def noted(self: Track, lane: object, group: Sequence[Trial], *rest: Load) -> Tensor:
        found.append((bool(Load.of(track.tape, group).due), set(lane.stream.done)))  # type: ignore[attr-defined]
        lane.stream.done.add(len(found) - 1)  # type: ignore[attr-defined]
        return run(self, lane, group, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Track, "_run", noted)
    return found


def test_no_batch_runs_beside_one_that_flips_stored_bits(current: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    model, samples = build("vit")
    known = sites(model, samples[0])
    kinds = {kind: [site for site in known if site.kind == kind] for kind in ("activations", "weights")}
    with torch.no_grad():
        track = Track(model, samples[:1], 2, streams=3, budget=2**24)
        for lane in track.lanes:
            lane.stream = StandIn()  # type: ignore[assignment]
        order = ("activations", "activations", "weights", "activations", "weights", "activations", "activations")
        picked = [site for place, kind in enumerate(order) for site in kinds[kind][2 * place : 2 * place + 2]]
        shared = [trial for trial in draw(picked, 2) if not track.alone(trial)]
        assert len(shared) == len(picked)
        seen = before(track, monkeypatch)
        assert track.faulty(shared).shape[0] == len(shared)
    assert [flips for flips, _ in seen] == [kind == "weights" for kind in order]
    for number, (flips, done) in enumerate(seen):
        for other in range(number):
            if flips or seen[other][0]:
                assert other in done, (other, number)
    assert 0 not in seen[1][1]  # these two may overlap
    assert current.done == set(range(len(order)))
