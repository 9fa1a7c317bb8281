"""A false claim is refuted in as many requests as its share of lies asks for; a true one hardly ever."""

from __future__ import annotations

import statistics

import pytest
import torch

from holdfast.errors import InvalidConfig
from holdfast.execution import Proportion
from holdfast.identification import grid_evidence
from holdfast.identification.providers import (
    ClaimTest,
    Honest,
    MixedFleet,
    RoutedByPrompt,
    Substitution,
    digests,
    requests_until_refuted,
    spoofed,
)
from holdfast.seeds import derive

ANSWERS = {"a": [f"a{k}" for k in range(50)], "b": [f"b{k}" for k in range(50)]}


def test_a_true_claim_is_refuted_less_often_than_the_error_however_long_one_looks() -> None:
    """The worst honest provider: wrong as often as ``flaw`` allows, looked at after each of 600 requests."""
    refuted, runs = 0, 200
    for seed in range(runs):
        generator = derive(seed, "flaws").numpy()
        test = ClaimTest([ANSWERS["a"]], error=0.05, flaw=1e-3)
        wrong = generator.random(600) < 1e-3
        refuted += any(test.see(k % 50, "x" if bad else f"a{k % 50}").refuted for k, bad in enumerate(wrong.tolist()))
    assert Proportion.clopper_pearson(refuted, runs).low <= 0.05
    assert refuted / runs < 0.05


@pytest.mark.parametrize(("share", "least", "most"), [(1.0, 1, 3), (0.1, 5, 80), (0.02, 30, 500)])
def test_partial_substitution_is_found_the_sooner_the_larger_it_is(share: float, least: int, most: int) -> None:
    delays = [
        requests_until_refuted(
            Substitution(claimed="a", actual="b", share=share, seed=seed), ANSWERS, ["a"], limit=5000, seed=seed
        )
        for seed in range(30)
    ]
    assert None not in delays
    assert least <= statistics.median(delays) <= most


def test_routing_by_prompt_is_found_by_other_prompts_only() -> None:
    hidden = next(
        seed for seed in range(100)
        if all(RoutedByPrompt(claimed="a", actual="b", share=0.1, seed=seed).platform(0, k) == "a" for k in range(5))
    )  # fmt: skip
    route = RoutedByPrompt(claimed="a", actual="b", share=0.1, seed=hidden)
    few = {name: row[:5] for name, row in ANSWERS.items()}
    assert requests_until_refuted(route, few, ["a"], limit=3000) is None
    assert requests_until_refuted(route, ANSWERS, ["a"], limit=3000) is not None
    assert route.platform(1, 7) == route.platform(99, 7)


def test_a_mixed_fleet_is_honest_only_if_it_is_declared() -> None:
    fleet = MixedFleet(shares={"a": 0.7, "b": 0.3}, seed=3)
    assert requests_until_refuted(fleet, ANSWERS, ["a", "b"], limit=500) is None
    assert requests_until_refuted(fleet, ANSWERS, ["a"], limit=500) is not None
    drawn = [fleet.platform(k, 0) for k in range(500)]
    share = Proportion.clopper_pearson(drawn.count("b"), 500, 0.99)
    assert share.low < 0.3 < share.high
    assert requests_until_refuted(Honest(name="a"), ANSWERS, ["a"], limit=500) is None


def test_an_output_cast_deceives_the_grid_and_not_the_bits() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    generator = derive(0, "spoof").torch()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.1, generator=generator)
    inputs = torch.rand(32, 64, generator=generator)
    with torch.no_grad():
        cast = spoofed(net(inputs), "bfloat16")
        real = net.bfloat16()(inputs.bfloat16()).float()
    assert grid_evidence(cast).dtype == "bf16"
    answers = {"bf16": digests(real), "cast": digests(cast)}
    assert requests_until_refuted(Honest(name="cast"), answers, ["bf16"], limit=32) is not None


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(InvalidConfig, match="add up"):
        MixedFleet(shares={"a": 0.5, "b": 0.6})
    with pytest.raises(InvalidConfig, match="flaw"):
        ClaimTest([ANSWERS["a"]], flaw=0.1)
    with pytest.raises(InvalidConfig, match="spoofed"):
        spoofed(torch.zeros(1), "int8")
