"""Checksum guards in lockstep: they find the operands of their product on the tape, and count row by row."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import holdfast
from holdfast.errors import InvalidConfig
from holdfast.execution import CampaignReport, campaign
from holdfast.execution.condition import Flips
from holdfast.execution.engines import Hooks, build_engine
from holdfast.execution.engines.lockstep import Lockstep
from holdfast.execution.plan import Trial
from holdfast.hardening import ChecksumGuard, harden, method_of
from holdfast.hardening.guards.checksum_method import Checksums
from holdfast.models import build_architecture, card, sites
from holdfast.models.site import Site
from holdfast.seeds import derive
from tests.unit.execution.suffix.test_bit_equality import same

DATA = holdfast.dataset("digits", split="test").take(8)
ROWS = 4


@pytest.fixture(autouse=True)
def _no_grad() -> object:
    with torch.no_grad():
        yield


class Attending(nn.Module):
    """Linear layers, a convolution, and products of computed tensors, one of them with keywords."""

    def __init__(self) -> None:
        super().__init__()
        self.line, self.qkv, self.out = nn.Conv1d(9, 9, 3, padding=1), nn.Linear(16, 48), nn.Linear(16, 5)
        generator = derive(0, "attending").torch()
        for item in self.parameters():
            item.copy_(torch.randn(item.shape, generator=generator) / 4)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x + self.line(x)).chunk(3, -1)
        weights = torch.matmul(q, k.transpose(1, 2) / 4).softmax(-1)
        seen = F.scaled_dot_product_attention(q, key=k, value=v, scale=0.3)
        return self.out((torch.bmm(weights, v) + seen).mean(1))


def attending(action: str) -> tuple[nn.Module, Tensor]:
    model = Attending().eval()
    card(model).input_shape = (9, 16)
    tough = harden(model, method_of(f"checksum:action={action}").calibrated(model, None))
    assert len(card(tough).guards) == 6
    return tough, torch.randn(5, 9, 16, generator=derive(1, "samples").torch())


def tough_digits(action: str) -> nn.Module:
    model = build_architecture("digits-cnn", seed=0).eval()
    train = holdfast.dataset("digits", split="train").take(16)
    return harden(model, method_of(f"checksum:action={action}").calibrated(model, train))


def counts(model: nn.Module, rows: int) -> list[list[int]]:
    """Return events, then alarms, of each guard and row."""
    guards = [guard for guard in card(model).guards if isinstance(guard, ChecksumGuard)]
    found = [item for guard in guards for item in (guard.events, guard.alarms)]
    return [[0] * rows if item is None else item.tolist()[:rows] for item in found]


def struck(found: Sequence[Site], bits: Sequence[int]) -> list[Trial]:
    """Return a trial for every site and bit, on inputs in turn."""
    trials = []
    for site in found:
        for bit in bits:
            element = (7919 * len(trials)) % site.numel
            flips = Flips(site, torch.tensor([element]), torch.tensor([1 << bit]))
            trials.append(Trial(len(trials), (flips,), len(trials) % 5))
    return trials


def both(action: str) -> tuple[nn.Module, Lockstep, Hooks]:
    model, samples = attending(action)
    images = lambda numbers: samples[list(numbers)].clone()
    engine = build_engine(f"lockstep:rows={ROWS}", model, images)
    assert isinstance(engine, Lockstep)
    return model, engine, Hooks(model, images)


@pytest.mark.parametrize("action", ["correct", "detect"])
@pytest.mark.parametrize("kind", ["activations", "weights"])
def test_bits_events_and_alarms_are_those_of_a_whole_pass_of_a_full_batch(action: str, kind: str) -> None:
    """Flips of bits that rounding hides, that a threshold sees, and that make numbers infinite."""
    model, engine, plain = both(action)
    found = [site for site in sites(model, torch.zeros(9, 16)) if site.kind == kind]
    trials = struck(found, (2, 17, 23, 30))
    blocks = engine.blocks(trials, 99)
    assert max(map(len, blocks)) == ROWS
    acted, met = 0, 0
    for block in blocks:
        ours, counted = engine.faulty(block), counts(model, len(block))
        for row, trial in enumerate(block):
            if kind == "weights":
                whole = plain.faulty((trial,) if len(block) == 1 else (trial, *_idle(trial, ROWS - 1)))
                place = 0
            else:
                whole, place = plain.faulty((*_idle(trial, ROWS - 1), trial)), ROWS - 1
            assert same(ours[row], whole[place]), trial.address
            expected = [column[place] for column in counts(model, ROWS)]
            assert [column[row] for column in counted] == expected, trial.address
            acted, met = acted + any(expected), met + 1
    assert len(trials) == met
    assert 0 < acted < met


def _idle(trial: Trial, count: int) -> tuple[Trial, ...]:
    return tuple(Trial(0, (), trial.input) for _ in range(count))


def test_weights_that_cannot_be_given_back_alarm_their_own_row_only() -> None:
    """Two flips in one column of a weight: the guard's second computation meets them, and so does nobody else's."""
    model, engine, plain = both("correct")
    (site,) = [item for item in sites(model, torch.zeros(9, 16)) if item.address == "weights:qkv.weight"]
    twice = Flips(site, torch.tensor([3, 3 + 16]), torch.tensor([1 << 27, 1 << 27]))
    once = dataclasses.replace(twice, index=torch.tensor([5]), mask=torch.tensor([1 << 27]))
    block = (Trial(0, (), 0), Trial(1, (twice,), 1), Trial(2, (once,), 2), Trial(3, (), 3))
    ours, counted = engine.faulty(block), counts(model, ROWS)
    for row, trial in enumerate(block):
        assert same(ours[row], plain.faulty((trial, *_idle(trial, ROWS - 1)))[0])
        assert [column[row] for column in counted] == [column[0] for column in counts(model, ROWS)]
    alarms = [sum(column) for column in zip(*counted[1::2], strict=True)]
    assert [count > 0 for count in alarms] == [False, True, False, False]


def table(model: nn.Module, engine: str, at: str, **options: object) -> CampaignReport:
    return campaign(model, DATA, holdfast.BitFlip(), at=at, trials=96, seed=3, engine=engine, **options)


@pytest.mark.parametrize("action", ["correct", "detect"])
def test_campaigns_have_the_table_of_whole_passes(action: str) -> None:
    model = tough_digits(action)
    for at, batch, more in (("activations:conv1", 16, {}), ("weights", 1, {"bits": "exponent-high"})):
        ours, plain = table(model, "lockstep", at, batch=16, **more), table(model, "hooks", at, batch=batch, **more)
        for one, other in zip(ours.rows, plain.rows, strict=True):
            assert (one.trial, one.outcome, one.guard_events) == (other.trial, other.outcome, other.guard_events)
        assert ours.counts["corrected" if action == "correct" else "detected"] > 40


class SequenceFirst(nn.Module):
    """A layer to which samples come along the second dimension, as in many recurrent nets."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.out = nn.Linear(16, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.inner(x.transpose(0, 1)).transpose(0, 1).mean(1))


@pytest.mark.parametrize("length", [3, 2 * ROWS])
def test_a_guard_that_would_count_something_else_than_rows_is_refused(length: int) -> None:
    model, samples = SequenceFirst().eval(), torch.randn(5, length, 16)
    for place, refused in (("inner", True), ("out", False)):
        tough = harden(model, Checksums(sites=(place,)))
        engine = build_engine(f"lockstep:rows={ROWS}", tough, lambda numbers: samples[list(numbers)].clone())
        if refused:
            with pytest.raises(InvalidConfig, match="the samples at inner, which has a guard, do not stand along"):
                engine.golden((0,))
        else:
            engine.golden((0,))


def test_a_guard_that_ends_the_pass_of_all_rows_is_refused() -> None:
    _, engine, _ = both("refuse")
    with pytest.raises(InvalidConfig, match="guard checksum sees more"):
        engine.golden((0,))


def test_the_suffix_engine_still_refuses_them() -> None:
    model, samples = attending("correct")
    engine = build_engine("suffix", model, lambda numbers: samples[list(numbers)].clone())
    with pytest.raises(InvalidConfig, match="guard checksum sees more"):
        engine.golden((0,))
