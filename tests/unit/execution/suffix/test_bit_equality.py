"""The suffix engine gives the bits of the plain engine at batch 1: every site of every kind of net."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from holdfast.execution.condition import Flips
from holdfast.execution.engines import Hooks, build_engine
from holdfast.execution.plan import Trial
from holdfast.execution.rewrites import Becomes
from holdfast.models import sites
from holdfast.models.site import Site
from tests.unit.execution.suffix.nets import NETS, build

COMPUTED = ("activations", "inputs", "outputs")


@pytest.fixture(autouse=True)
def _no_grad() -> object:
    with torch.no_grad():
        yield


def draw(known: Sequence[Site], images: int, seed: int = 0) -> list[Trial]:
    """Return one random bit fault in every site."""
    generator = random.Random(seed)
    trials = []
    for number, site in enumerate(known):
        bit = generator.randrange(site.bits)
        mask = torch.tensor([(1 << bit) - (1 << 64 if bit == 63 else 0)])
        flips = Flips(site, torch.tensor([generator.randrange(site.numel)]), mask)
        trials.append(Trial(number, (flips,), generator.randrange(images)))
    return trials


def engines_of(model: nn.Module, samples: Tensor) -> tuple[Hooks, object]:
    """Return the plain engine and the suffix engine on ``samples``."""
    images = lambda numbers: samples[list(numbers)].clone()
    return Hooks(model, images), build_engine("suffix", model, images)


def same(ours: Tensor, theirs: Tensor) -> bool:
    return torch.equal(ours.view(torch.int32), theirs.view(torch.int32))


@pytest.mark.parametrize("name", NETS)
def test_a_fault_in_any_site_gives_the_bits_of_a_whole_pass(name: str) -> None:
    model, samples = build(name)
    plain, suffix = engines_of(model, samples)
    trials = draw(sites(model, samples[0]), len(samples))
    assert {trial.flips[0].site.kind for trial in trials} >= {"weights", *COMPUTED}
    wrong = [t.address for t in trials if not same(suffix.faulty((t,)), plain.faulty((t,)))]
    assert wrong == []


@pytest.mark.parametrize("name", NETS)
def test_trials_that_share_a_block_get_the_bits_of_each_alone(name: str) -> None:
    model, samples = build(name)
    plain, suffix = engines_of(model, samples)
    trials = draw(sites(model, samples[0]), len(samples), seed=1)
    for block in suffix.blocks(trials, 16):
        together = suffix.faulty(block)
        assert [t.address for t, row in zip(block, together, strict=True) if not same(row, plain.faulty((t,))[0])] == []


@pytest.mark.parametrize("name", NETS)
def test_golden_outputs_are_those_of_single_passes(name: str) -> None:
    model, samples = build(name)
    plain, suffix = engines_of(model, samples)
    assert same(suffix.golden((2, 0, 2)), torch.cat([plain.golden((k,)) for k in (2, 0, 2)]))


@pytest.mark.parametrize("name", ["resnet", "gpt"])
def test_several_faults_in_one_trial_meet_as_in_a_whole_pass(name: str) -> None:
    model, samples = build(name)
    plain, suffix = engines_of(model, samples)
    single = draw(sites(model, samples[0]), 1, seed=2)
    generator = random.Random(3)
    for number in range(12):
        parts = generator.sample(single, 3)
        trial = Trial(number, tuple(flips for part in parts for flips in part.flips), 1)
        assert same(suffix.faulty((trial,)), plain.faulty((trial,)))


@pytest.mark.parametrize("order", [1, -1])
def test_faults_in_one_value_under_two_names_strike_in_the_order_of_the_pass(order: int) -> None:
    """The last layer's output is the model's: what is set there is flipped later, however the trial lists them."""
    model, samples = build("gpt")
    last = nn.Sequential(model, nn.Linear(50, 4)).eval()
    plain, suffix = engines_of(last, samples)
    known = {site.address: site for site in sites(last, samples[0])}
    index, code = torch.tensor([1]), torch.tensor([0x3F800000])
    one = Flips(known["activations:1"], index, torch.tensor([0]), rewrite=Becomes(code))
    other = Flips(known["outputs:output"], index, torch.tensor([1 << 22]))
    trial = Trial(0, (one, other)[::order], 0)
    assert same(suffix.faulty((trial,)), plain.faulty((trial,)))


def test_the_model_is_what_it_was_afterwards() -> None:
    model, samples = build("resnet")
    before = [tensor.clone() for tensor in model.state_dict().values()]
    _, suffix = engines_of(model, samples)
    suffix.faulty(tuple(draw(sites(model, samples[0]), 3)))
    assert all(torch.equal(old, new) for old, new in zip(before, model.state_dict().values(), strict=True))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
