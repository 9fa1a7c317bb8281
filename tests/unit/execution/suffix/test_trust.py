"""A kernel is not trusted because golden values happen to make every order of a sum give the same bits."""

from __future__ import annotations

import torch
from torch import nn

from holdfast.execution.condition import Flips
from holdfast.execution.engines import build_engine
from holdfast.execution.plan import Trial
from holdfast.execution.rewrites import Becomes
from holdfast.models import sites
from tests.unit.execution.suffix.test_bit_equality import same


def _random_codes(count: int) -> torch.Tensor:
    values = torch.randn(count, generator=torch.Generator().manual_seed(3))
    return values.view(torch.int32).to(torch.int64)


def test_windows_over_dead_neurons_get_the_bits_of_a_whole_pass() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        layers = [nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.Flatten()]
    model = nn.Sequential(*layers).eval()
    nn.init.constant_(model[0].bias, -100.0)  # the golden map behind the rectifier is all zeros
    samples = torch.randn(1, 3, 40, 40, generator=torch.Generator().manual_seed(2))
    images = lambda numbers: samples[list(numbers)].clone()
    site = next(site for site in sites(model, samples[0]) if site.address == "activations:1")
    channels = torch.arange(16) * 1600
    index = torch.cat([channels + 20 * 40 + 17 + step for step in (0, 1, 40, 41)]).sort().values
    flips = Flips(site, index, torch.zeros_like(index), rewrite=Becomes(_random_codes(len(index))))
    trial = Trial(0, (flips,), 0)
    plain, suffix = build_engine("hooks", model, images), build_engine("suffix", model, images)
    with torch.no_grad():
        assert same(suffix.faulty((trial,)), plain.faulty((trial,)))


def test_rows_of_a_small_layer_share_a_call_only_if_any_values_would_give_their_bits() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6)).eval()
    samples = torch.zeros(1, 6)
    for layer in model:
        nn.init.zeros_(layer.bias)  # golden values are zeros
    images = lambda numbers: samples[list(numbers)].clone()
    site = next(site for site in sites(model, samples[0]) if site.address == "inputs:input")
    codes, index = _random_codes(6 * 16).split(6), torch.arange(6)
    trials = [
        Trial(number, (Flips(site, index, torch.zeros_like(index), rewrite=Becomes(own)),), 0)
        for number, own in enumerate(codes)
    ]
    plain, suffix = build_engine("hooks", model, images), build_engine("suffix", model, images)
    with torch.no_grad():
        (block,) = suffix.blocks(trials, 16)
        together = suffix.faulty(block)
        assert same(together, torch.cat([plain.faulty((trial,)) for trial in block]))
