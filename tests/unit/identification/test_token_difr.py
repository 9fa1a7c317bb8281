"""Token-DiFR: honest numerics agree, a quantised model, another seed or temperature shows; the test keeps its level."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

import holdfast
from holdfast.errors import InvalidConfig
from holdfast.execution import Proportion
from holdfast.identification.token_difr import SharedSampling, auc, gumbel, token_divergence
from holdfast.models import load
from holdfast.seeds import derive

SEQUENCES, LENGTH = 10, 30


def logits_of(model):
    def call(tokens: torch.Tensor) -> torch.Tensor:
        output = model(tokens)
        return getattr(output, "logits", output).float()

    return call


@pytest.fixture(scope="module")
def model(shared_data: Path):
    return load(shared_data / "tiny-llama-260k").eval()


@pytest.fixture(scope="module")
def prompts() -> torch.Tensor:
    return torch.randint(3, 512, (SEQUENCES, 6), generator=derive(0, "prompts").torch())


def claims(model, reference, prompts, sampling: SharedSampling, claimed: SharedSampling | None = None):
    tokens = (claimed or sampling).generate(logits_of(model), prompts, LENGTH)
    return sampling.margins(logits_of(reference), prompts, tokens)


def test_the_noise_is_gumbel_and_everybody_draws_the_same() -> None:
    noise = torch.cat([gumbel(3, 0, position, 512) for position in range(40)]).numpy()
    assert stats.kstest(noise, "gumbel_r").pvalue > 0.01
    assert torch.equal(gumbel(3, 1, 2, 64), gumbel(3, 1, 2, 64))
    assert not torch.equal(gumbel(3, 1, 2, 64), gumbel(3, 2, 1, 64))


def test_sampling_with_shared_noise_draws_from_the_softmax() -> None:
    logits = derive(1, "l").torch()
    values = torch.randn(5, generator=logits)

    def constant(tokens: torch.Tensor) -> torch.Tensor:
        return values.expand(*tokens.shape, 5)

    drawn = SharedSampling(seed=2, temperature=0.7).generate(constant, torch.zeros(40, 1, dtype=torch.long), 50)
    seen = torch.bincount(drawn.reshape(-1), minlength=5).numpy()
    expected = (values.double() / 0.7).softmax(-1).numpy() * drawn.numel()
    assert stats.chisquare(seen, expected).pvalue > 0.01


@pytest.mark.slow
def test_an_honest_provider_with_another_implementation_agrees(model, prompts, shared_data: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="the other implementation is that of transformers")
    other = transformers.AutoModelForCausalLM.from_pretrained(shared_data / "tiny-llama-260k").eval()
    margins = claims(other, model, prompts, SharedSampling(seed=5))
    assert float((margins == 0).double().mean()) > 0.99
    assert float(margins.max()) < 1e-3


def test_quantised_models_are_detected_and_honest_ones_are_not(model, prompts) -> None:
    sampling = SharedSampling(seed=5)
    honest = claims(copy.deepcopy(model).bfloat16(), model, prompts, sampling)
    four = token_divergence(claims(holdfast.quantize(model, "int4"), model, prompts, sampling), honest, tokens=15)
    assert four.diverges(0.01)
    assert four.auc.low > 0.8
    assert four.agreement.high < four.honest_agreement.low
    assert four.margin.low > four.honest_margin.high
    again = claims(copy.deepcopy(model).bfloat16(), model, prompts.flip(0), SharedSampling(seed=6))
    assert not token_divergence(again, honest, tokens=15).diverges(0.01)


def test_another_seed_or_temperature_is_detected(model, prompts) -> None:
    sampling = SharedSampling(seed=5)
    honest = claims(copy.deepcopy(model).bfloat16(), model, prompts, sampling)
    for claimed in (SharedSampling(seed=6), SharedSampling(seed=5, temperature=0.5)):
        assert token_divergence(claims(model, model, prompts, sampling, claimed), honest).diverges(0.01)


def test_a_fork_early_in_a_text_counts_once(model, prompts) -> None:
    sampling = SharedSampling(temperature=0.0)
    tokens = sampling.generate(logits_of(model), prompts, LENGTH)
    forked = tokens.clone()
    forked[:, 5] = (forked[:, 5] + 1) % 512
    after = torch.cat([prompts, forked[:, :6]], dim=1)
    forked[:, 6:] = sampling.generate(logits_of(model), after, LENGTH - 6)
    margins = sampling.margins(logits_of(model), prompts, forked)
    assert ((margins > 0).sum(dim=1) == 1).all()
    assert (tokens != forked).sum() > SEQUENCES * 5


def test_the_permutation_test_keeps_its_level() -> None:
    alarms = 0
    for seed in range(300):
        generator = derive(seed, "margins").numpy()
        scale = generator.exponential(1, (20, 1))  # sequences differ, tokens of one are alike
        margins = torch.from_numpy(scale * generator.exponential(1, (20, 30)) * (generator.random((20, 30)) < 0.1))
        alarms += token_divergence(margins[:8], margins[8:], permutations=199, seed=seed).diverges(0.05)
    rate = Proportion.clopper_pearson(alarms, 300)
    assert rate.low <= 0.05 <= rate.high


def test_the_interval_of_an_auc_covers_and_stays_open_at_one() -> None:
    covered, truth = 0, stats.norm.cdf(1 / np.sqrt(2))
    for seed in range(300):
        generator = derive(seed, "auc").numpy()
        found = auc(generator.normal(1, 1, 20).tolist(), generator.normal(0, 1, 15).tolist())
        covered += found.low <= truth <= found.high
    assert Proportion.clopper_pearson(covered, 300).high >= 0.95 > 0.9 < covered / 300
    perfect = auc([2.0] * 10, [1.0] * 10)
    assert perfect.value == 1.0
    assert 0.7 < perfect.low < 1.0
    assert auc([1.0], [1.0]).value == 0.5


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(InvalidConfig, match="two sequences"):
        token_divergence(torch.zeros(1, 4), torch.zeros(3, 4))
    with pytest.raises(InvalidConfig, match="batches of 9"):
        token_divergence(torch.zeros(2, 4), torch.zeros(3, 4), tokens=9)
    with pytest.raises(InvalidConfig, match="negative"):
        SharedSampling(temperature=-1.0)
    with pytest.raises(InvalidConfig, match="an AUC"):
        auc([], [1.0])
