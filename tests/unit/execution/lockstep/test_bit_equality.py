"""A row computed in lockstep has the bits that a whole pass of a full batch gives it, at every site of many nets."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from holdfast.errors import InvalidConfig, NoSuchSite
from holdfast.execution.condition import Flips
from holdfast.execution.engines import Hooks, build_engine
from holdfast.execution.engines.lockstep import Lockstep
from holdfast.execution.engines.lockstep.layout import Rows, _moved, cuts_of, flowing_of, layouts_of, live, strangers
from holdfast.execution.engines.lockstep.track import Track
from holdfast.execution.engines.suffix.capture import capture
from holdfast.execution.plan import Trial
from holdfast.models import sites
from holdfast.models.site import Site
from tests.unit.execution.suffix.nets import NETS, build
from tests.unit.execution.suffix.test_bit_equality import draw, same


@pytest.fixture(autouse=True)
def _no_grad() -> object:
    with torch.no_grad():
        yield


def engines_of(model: nn.Module, samples: Tensor, spec: str) -> tuple[Lockstep, Hooks]:
    images = lambda numbers: samples[list(numbers)].clone()
    found = build_engine(spec, model, images)
    assert isinstance(found, Lockstep)
    return found, Hooks(model, images)


def beside_others(plain: Hooks, trial: Trial, rows: int) -> Tensor:
    """Return the row of ``trial`` in a whole pass of a full batch, in which it is the last one."""
    others = tuple(Trial(0, (), number % 3) for number in range(rows - 1))
    return plain.faulty((*others, trial))[-1]


@pytest.mark.parametrize("name", NETS)
def test_a_fault_in_any_site_gives_the_bits_of_a_whole_pass_of_a_full_batch(name: str) -> None:
    model, samples = build(name)
    engine, plain = engines_of(model, samples, "lockstep:rows=4")
    trials = draw(sites(model, samples[0]), len(samples))
    blocks = engine.blocks(trials, 99)
    assert sorted(trial.number for block in blocks for trial in block) == list(range(len(trials)))
    assert max(map(len, blocks)) == 4
    wrong = [
        trial.address
        for block in blocks
        for trial, row in zip(block, engine.faulty(block), strict=True)
        if not same(row, beside_others(plain, trial, 4))
    ]
    assert wrong == []


@pytest.mark.parametrize("rows", [1, 3, 8])
def test_golden_rows_are_those_of_a_full_batch(rows: int) -> None:
    model, samples = build("vit")
    engine, plain = engines_of(model, samples, f"lockstep:rows={rows}")
    whole = plain.golden((2, 0, 1, 2, 0, 1, 0, 0)[:rows])
    found = engine.golden((2, 0, 1, 2)[:rows])
    assert same(found, whole[: len(found)])


def test_several_faults_in_one_trial_meet_as_in_a_whole_pass() -> None:
    model, samples = build("resnet")
    engine, plain = engines_of(model, samples, "lockstep:rows=4")
    known, generator = sites(model, samples[0]), random.Random(3)

    def several(number: int) -> Trial:
        flips = [draw([site], 1, seed=number)[0].flips[0] for site in generator.sample(list(known), 4)]
        return Trial(number, tuple(flips), number % 3)

    block = tuple(several(number) for number in range(4))
    for trial, row in zip(block, engine.faulty(block), strict=True):
        assert same(row, beside_others(plain, trial, 4))


def test_a_model_is_as_it_was_afterwards() -> None:
    model, samples = build("mobilenet-v2")
    engine, _ = engines_of(model, samples, "lockstep:rows=4")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for block in engine.blocks(draw(sites(model, samples[0]), 3), 4):
        engine.faulty(block)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_what_does_not_fit_in_memory_is_computed_again_to_the_same_bits() -> None:
    model, _ = build("resnet")
    samples = torch.randn(40, 3, 48, 48, generator=torch.Generator().manual_seed(1))
    ample, _ = engines_of(model, samples, "lockstep:rows=4")
    tight, _ = engines_of(model, samples, "lockstep:rows=4,memory=1")
    trials = draw(sites(model, samples[0]), len(samples), seed=2)
    for engine in (ample, tight):
        engine.prepare(0)
    room = next(iter(tight._tracks.values())).shelf.room
    assert 4 <= room < 40 <= next(iter(ample._tracks.values())).shelf.room
    ours = {
        t.number: row for block in ample.blocks(trials, 4) for t, row in zip(block, ample.faulty(block), strict=True)
    }
    for block in reversed(ample.blocks(trials, 4)):  # mixes inputs as no campaign would
        for trial, row in zip(block, tight.faulty(block), strict=True):
            assert same(row, ours[trial.number])
    assert max(len({t.input for t in block}) for block in tight.blocks(trials, 4)) <= room


def refused(forward: Callable[[Tensor], Tensor]) -> str:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(6, 5)

        def forward(self, x: Tensor) -> Tensor:
            return forward(self.inner(x))

    engine, _ = engines_of(Net().eval(), torch.randn(3, 6), "lockstep:rows=4")
    with pytest.raises(InvalidConfig) as caught:
        engine.prepare(0)
    return str(caught.value)


def shifted(y: Tensor) -> Tensor:
    return y + torch.arange(len(y)).unsqueeze(1)


OTHERS: dict[str, Callable[[Tensor], Tensor]] = {
    "the mean of the batch": lambda y: y - y.mean(0),
    "the largest of the batch": lambda y: y / y.abs().max(),
    "the row before": lambda y: y + y.roll(1, 0),
    "its place": shifted,
    "another order": lambda y: y.flip(0),
}


@pytest.mark.parametrize("what", OTHERS)
def test_a_model_whose_rows_depend_on_each_other_or_on_their_place_is_refused(what: str) -> None:
    message = refused(OTHERS[what])
    assert "depends on its place in a batch of 4, or on other rows" in message


def test_what_all_rows_share_may_depend_on_weights_and_is_then_struck_alone() -> None:
    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(16, 16))

        def forward(self, x: Tensor) -> Tensor:
            return x @ (self.weight / self.weight.norm()).t()

    model, samples = Normed().eval(), torch.randn(3, 16)
    engine, plain = engines_of(model, samples, "lockstep:rows=4")
    trials = draw([site for site in sites(model, samples[0]) if site.kind == "weights"] * 3, 3)
    assert [len(block) for block in engine.blocks(trials, 4)] == [1, 1, 1]
    assert not engine.together(tuple(trials))
    for trial in trials:
        assert same(engine.faulty((trial,))[0], beside_others(plain, trial, 4))


class Scaled(nn.Module):
    """Channels times something made of a weight per channel alone, whose entries are equal until they are trained."""

    def __init__(self, shared: Callable[[Tensor, Tensor], Tensor], channels: int = 8) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, channels, 3, padding=1), nn.Conv2d(channels, 5, 3)
        self.scale, self.shared = nn.Parameter(torch.full((channels, 1, 1), 2.3)), shared

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.last(torch.relu(x * self.shared(self.scale, x))).mean((2, 3))


def written(scale: Tensor, x: Tensor) -> Tensor:
    buffer = torch.zeros(len(scale), 1, 1)
    buffer.copy_(scale)
    return buffer.mul_(1.5)


SHARED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "one step": lambda scale, x: scale.exp(),
    "several steps, as in Swin V2": lambda scale, x: scale.clamp(max=4.6).exp().sqrt(),
    "in place": written,
    "beside the shape and kind of the input": lambda scale, x: x.new_zeros(len(scale), 1, 1) + scale,
    "beside what no input changes": lambda scale, x: (x[0, 0, 0] > 1e9).float().reshape(-1, 1, 1) + scale,
}


@pytest.mark.parametrize("rows", [4, 8])
@pytest.mark.parametrize("what", SHARED)
def test_equal_entries_of_what_all_rows_share_are_not_taken_for_rows(what: str, rows: int) -> None:
    torch.manual_seed(0)
    model, samples = Scaled(SHARED[what]).eval(), torch.randn(3, 3, 8, 8)
    engine, plain = engines_of(model, samples, f"lockstep:rows={rows}")
    (site,) = [site for site in sites(model, samples[0]) if site.name == "scale"]
    trials = [Trial(k, (Flips(site, torch.tensor([k % 8]), torch.tensor([1 << (20 + k)])),), k % 3) for k in range(10)]
    assert not engine.together(tuple(trials))
    others = draw([found for found in sites(model, samples[0]) if found.name == "first.weight"] * 4, 3)
    assert engine.together(tuple(others))
    for block in engine.blocks([*trials, *(replace(trial, number=10 + trial.number) for trial in others)], rows):
        for trial, row in zip(block, engine.faulty(block), strict=True):
            assert same(row, beside_others(plain, trial, rows)), trial.address


def test_only_what_is_computed_from_the_input_has_rows() -> None:
    model, samples = Scaled(SHARED["several steps, as in Swin V2"]).eval(), torch.randn(1, 3, 8, 8)
    batch = strangers(samples, 8)
    tape = capture(model, batch)
    layouts, _ = layouts_of(tape, batch)
    flowing = flowing_of(tape)
    shared = [cell for cell in layouts if cell not in flowing]
    assert len(shared) == 3
    assert all(layouts[cell] is None for cell in shared)
    assert {layouts[cell] for cell in flowing} == {Rows(0, 1, 8)}


def test_the_proof_tries_faults_that_must_be_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model, samples = Scaled(SHARED["one step"]).eval(), torch.randn(3, 3, 8, 8)
    engine, _ = engines_of(model, samples, "lockstep:rows=4")
    faulty, tried = Track.faulty, set()

    def watched(self: Track, trials: Sequence[Trial]) -> Tensor:
        tried.update((flips.site.name, len(trials)) for trial in trials for flips in trial.flips)
        return faulty(self, trials)

    monkeypatch.setattr(Track, "faulty", watched)
    engine.prepare(0)
    assert ("scale", 1) in tried
    assert {name for name, size in tried if size > 1} & {"first.weight", "first.bias", "last.weight", "last.bias"}


def test_a_site_that_is_not_on_the_tape_is_known_not_to_be() -> None:
    model, samples = build("vit")
    engine, _ = engines_of(model, samples, "lockstep:rows=2")
    nowhere = Trial(
        0, (Flips(Site("activations", "nowhere", (3,), "fp32", 32), torch.tensor([0]), torch.tensor([1])),), 0
    )
    assert not engine.knows(nowhere)
    with pytest.raises(NoSuchSite, match="nowhere"):
        engine.faulty((nowhere,))


@pytest.mark.parametrize("options", ["rows=-1", "streams=0", "memory=-5"])
def test_options_out_of_range_are_refused(options: str) -> None:
    with pytest.raises(InvalidConfig):
        build_engine(f"lockstep:{options}", nn.Linear(2, 2), lambda numbers: torch.zeros(len(numbers), 2))


def tape_and(name: str, rows: int) -> tuple[object, Tensor]:
    model, samples = build(name)
    batch = strangers(samples[:1], rows)
    return capture(model, batch), batch


def test_rows_are_found_wherever_they_lie() -> None:
    class Turned(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            apart = x.view(len(x), 3, 4).permute(1, 0, 2).contiguous()  # (3, B, 4)
            mixed = apart.view(3 * len(x), 4) * 2  # rows in the middle of a dimension
            fast = mixed.view(3, len(x), 4).permute(0, 2, 1).contiguous()  # rows run fastest
            return fast.permute(2, 0, 1).reshape(len(x) * 3, 4).add(1).view(len(x), 12)  # rows first

    batch = strangers(torch.randn(1, 12), 5)
    tape = capture(Turned().eval(), batch)
    layouts, dtypes = layouts_of(tape, batch)
    found = {(tape.cells[cell].size, rows and (rows.dim, rows.outer)) for cell, rows in layouts.items()}
    assert {((3, 5, 4), (1, 1)), ((15, 4), (0, 3)), ((3, 4, 5), (2, 1)), ((15, 4), (0, 1))} <= found
    assert set(dtypes.values()) == {torch.float32}
    cell = next(cell for cell in layouts if tape.cells[cell].size == (3, 5, 4))
    assert torch.equal(
        Rows(1, 1, 5).of(torch.arange(60).view(3, 5, 4))[2].flatten(), torch.arange(60).view(3, 5, 4)[:, 2].flatten()
    )
    assert layouts[cell] == Rows(1, 1, 5)


def test_a_tape_is_cut_where_little_is_alive() -> None:
    tape, _ = tape_and("vit", 2)
    cuts: Sequence[int] = cuts_of(tape, 4)
    assert cuts[0] == 0
    assert len(cuts) <= 5
    alive = [sum(torch.Size(tape.cells[cell].size).numel() for cell in live(tape, cut)) for cut in cuts[1:]]
    assert max(alive) == 2 * 17 * 32  # the residual stream, and nothing beside it


@pytest.mark.parametrize("count", [2, 3, 8])
def test_no_row_keeps_its_place_where_places_are_tried(count: int) -> None:
    batch = torch.arange(float(count)).view(count, 1)
    for turn in range(2):
        moved, places = _moved(batch, turn)
        assert places
        assert all(old != new and moved[new] == batch[old] for old, new in places)
