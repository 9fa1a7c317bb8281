"""What the searches promise: first-order gains, budgets kept, exact undo, determinism, and more harm than chance."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from holdfast.data import Dataset
from holdfast.errors import InvalidConfig, NoSuchSite
from holdfast.execution import Proportion, inject, predict
from holdfast.faults.adversarial import (
    Attack,
    Budget,
    LinearMemory,
    ProgressiveBitSearch,
    ProjectedGradient,
    RandomBits,
    Victim,
    attack,
    attacks,
)
from holdfast.faults.adversarial.attack import attackable, split_images
from holdfast.faults.adversarial.changes import flips_of
from holdfast.faults.adversarial.progressive_bit_search import bit_gains
from holdfast.faults.adversarial.random_bits import draw_flips
from holdfast.models import manifest_of
from holdfast.quantization import quantize
from holdfast.seeds import Seed, derive

SEARCHES: dict[str, Attack] = {
    "progressive-bit-search": ProgressiveBitSearch(),
    "projected-gradient": ProjectedGradient(iterations=8, restarts=2),
    "random-bits": RandomBits(restarts=3),
}
FORMATS = ["int8", "rquant4", "fp32", "bf16"]


def stored_as(trained: nn.Module, format: str) -> nn.Module:
    return trained if format == "fp32" else quantize(trained, format)


@dataclass(frozen=True)
class Linear:
    """A score that is linear in the weights, so that first-order gains are exact."""

    def score(self, forward, images: Tensor, labels: Tensor) -> Tensor:
        outputs = forward(images)
        return (outputs * torch.linspace(-1, 1, outputs.numel(), dtype=outputs.dtype).view_as(outputs)).sum()

    def hits(self, forward, images: Tensor, labels: Tensor) -> Tensor:
        return labels == 0


@pytest.mark.parametrize("format", ["int8", "int4", "rquant8", "rquant3", "fixed-point:bits=5,symmetric=false", "bf16"])
def test_bit_gains_are_the_true_changes_of_a_linear_score(format: str) -> None:
    """Brute force: flip each bit of each weight for real and measure; signs, order and size agree."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = quantize(nn.Linear(5, 4), format)
    images = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    places = attackable(model, "weights:weight")
    victim = Victim(model, places, LinearMemory.of(places, 64), Linear(), (images, torch.zeros(6, dtype=torch.int64)))
    (site,) = places
    now, gradients = victim.gradients()
    gains = bit_gains(victim, site, gradients[site].reshape(-1), torch.arange(site.numel))
    assert gains.shape == (20, site.bits)
    for element in range(site.numel):
        for bit in range(site.bits):
            with victim.trying([flips_of(site, [(element, bit)])]):
                true = victim.score() - now
            size = abs(float(victim.alternatives(site, torch.tensor([element]))[0, bit])) + 1
            if size > 1e30:  # the largest exponents overflow the sum of outputs
                continue
            assert float(gains[element, bit]) == pytest.approx(true, rel=1e-4, abs=1e-5 * size)


def test_on_a_linear_score_the_first_step_is_the_best_single_flip_of_all() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        model = quantize(nn.Linear(5, 4), "int8")
    images = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))
    places = attackable(model, "weights")
    victim = Victim(model, places, LinearMemory.of(places, 64), Linear(), (images, torch.zeros(6, dtype=torch.int64)))
    scores = {}
    for site in places:
        for element in range(site.numel):
            for bit in range(site.bits):
                with victim.trying([flips_of(site, [(element, bit)])]):
                    scores[site, element, bit] = victim.score()
    ProgressiveBitSearch(top=None).search(victim, Budget(bits=1), derive(0))
    (flip,) = victim.flips
    found = (flip.site, int(flip.index[0]), int(flip.mask[0]).bit_length() - 1)
    assert scores[found] == max(scores.values())


def test_every_registered_search_is_tested() -> None:
    assert set(SEARCHES) <= set(attacks.names())
    for name, method in SEARCHES.items():
        assert attacks.name_of(type(method)) == name


@pytest.mark.parametrize("name", list(SEARCHES))
@pytest.mark.parametrize("format", FORMATS)
def test_a_search_keeps_its_budget_undoes_itself_and_repeats(
    name: str, format: str, trained: nn.Module, digits: Dataset
) -> None:
    model, budget = stored_as(trained, format), Budget(bits=6, rows=2, row_bytes=64)
    digest, outputs = manifest_of(model).digest, predict(model, digits.take(32))
    report = attack(model, digits, SEARCHES[name], budget, seed=5)
    assert manifest_of(model).digest == digest
    assert torch.equal(predict(model, digits.take(32)), outputs)
    assert 1 <= report.bits <= 6
    assert 1 <= report.rows <= 2
    for site, places in report.fault.flip_list.sites:
        elements = [element for element, _ in places]
        assert len(set(elements)) == len(elements), f"two flips in one weight of {site.address}"
    again = attack(model, digits, SEARCHES[name], budget, seed=5)
    assert (again.fault, again.attacked, again.history) == (report.fault, report.attacked, report.history)
    if name != "random-bits":
        assert report.score > report.score_before


@pytest.mark.parametrize("format", ["int8", "rquant4"])
@pytest.mark.parametrize("bits", [3, 10])
def test_gradients_hurt_more_than_the_worst_of_many_random_draws(
    format: str, bits: int, trained: nn.Module, digits: Dataset
) -> None:
    model, budget = stored_as(trained, format), Budget(bits=bits)
    chance = attack(model, digits, RandomBits(restarts=100), budget)
    assert chance.bits == bits
    for name in ("progressive-bit-search", "projected-gradient"):
        found = attack(model, digits, SEARCHES[name], budget)
        assert found.evaluation_data == chance.evaluation_data
        assert found.forwards <= chance.forwards + 30
        assert found.score > chance.score + 0.5, name
        assert found.attacked.value > chance.attacked.value, name


def test_the_report_is_what_replaying_the_flips_gives(int8: nn.Module, digits: Dataset) -> None:
    report = attack(int8, digits, ProgressiveBitSearch(), Budget(bits=4), images=100, seed=9)
    seen, unseen = split_images(digits, 100, 9)
    assert (report.attack_data, report.evaluation_data) == (seen.digest, unseen.digest)
    with inject(int8, report.fault, at="weights", seed=1):
        errors = int((predict(int8, unseen).argmax(1) != unseen.labels).sum())
    assert report.attacked == Proportion.wilson(errors, 400) == report.success
    assert report.history[-1] == (4, report.score)
    assert [count for count, _ in report.history] == [1, 2, 3, 4]
    assert [score for _, score in report.history] == sorted(score for _, score in report.history)


def test_attack_and_evaluation_images_are_disjoint(digits: Dataset) -> None:
    seen, unseen = split_images(digits, 128, seed=3)
    assert (len(seen), len(unseen)) == (128, len(digits) - 128)
    whole = sorted(digits.raw.flatten(1).tolist())
    assert sorted([*seen.raw.flatten(1).tolist(), *unseen.raw.flatten(1).tolist()]) == whole


@pytest.mark.parametrize("name", list(SEARCHES))
def test_a_selection_restricts_the_attack(name: str, int8: nn.Module, digits: Dataset) -> None:
    report = attack(int8, digits, SEARCHES[name], Budget(bits=5), at="weights:fc*,weights:conv1.*")
    assert {site.name for site, _ in report.fault.flip_list.sites} <= {"fc.weight", "fc.bias", "conv1.weight"}
    assert report.bits == 5 or name == "projected-gradient"


def test_several_bits_of_a_weight_are_flipped_only_if_the_budget_says_so(int8: nn.Module, digits: Dataset) -> None:
    free = attack(int8, digits, RandomBits(), Budget(bits=60, one_per_weight=False), at="weights:fc.bias")
    ((_, places),) = free.fault.flip_list.sites
    assert len(places) == 60
    assert len({element for element, _ in places}) < 11
    with pytest.raises(InvalidConfig, match="no 60 bits"):
        attack(int8, digits, RandomBits(), Budget(bits=60), at="weights:fc.bias")


def test_a_budget_beyond_all_weights_flips_each_at_most_once(int8: nn.Module, digits: Dataset) -> None:
    report = attack(int8, digits, ProjectedGradient(iterations=4, restarts=3), Budget(bits=10**6), at="weights:fc.bias")
    ((site, places),) = report.fault.flip_list.sites
    assert 1 <= len(places) <= site.numel
    assert len({element for element, _ in places}) == len(places)


def test_two_bits_are_tried_together_where_one_alone_raises_nothing() -> None:
    """The score is the smaller of two weights' products: only moving both raises it."""

    @dataclass(frozen=True)
    class Both:
        def score(self, forward, images: Tensor, labels: Tensor) -> Tensor:
            outputs = forward(images)[0]
            return torch.minimum(outputs[0], outputs[1]) + 1e-4 * outputs.sum() * (outputs[0] - outputs[1]).abs().lt(1)

        def hits(self, forward, images: Tensor, labels: Tensor) -> Tensor:
            return labels == 0

    model = nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        model.weight.fill_(0.5)
    model = quantize(model, "fixed-point:granularity=tensor")
    places = attackable(model, "weights")
    victim = Victim(
        model, places, LinearMemory.of(places, 64), Both(), (torch.ones(1, 1), torch.zeros(1, dtype=torch.int64))
    )
    with torch.no_grad():
        victim.places[next(iter(places))].xor_(torch.tensor([0, 1]), torch.tensor([64, 64]))  # 127 becomes 63
    ProgressiveBitSearch().search(victim, Budget(bits=2), derive(0))
    assert [(item.index.tolist(), item.mask.tolist()) for item in victim.flips] == [([0, 1], [64, 64])]


class Greedy:
    """Spends whatever it likes."""

    def search(self, victim: Victim, budget: Budget, seed: Seed) -> None:
        victim.assign(draw_flips(victim, Budget(bits=budget.bits + 1), seed))


def test_an_attack_that_breaks_its_budget_is_refused_and_undone(int8: nn.Module, digits: Dataset) -> None:
    digest = manifest_of(int8).digest
    with pytest.raises(InvalidConfig, match="beyond its budget: 4 bits of 3"):
        attack(int8, digits, Greedy(), Budget(bits=3))
    assert manifest_of(int8).digest == digest


def test_bad_calls_are_refused(int8: nn.Module, digits: Dataset) -> None:
    with pytest.raises(InvalidConfig, match="none to evaluate"):
        attack(int8, digits, RandomBits(), Budget(bits=1), images=500)
    with pytest.raises(InvalidConfig, match="stored bits"):
        attack(int8, digits, RandomBits(), Budget(bits=1), at="activations")
    with pytest.raises(NoSuchSite):
        attack(int8, digits, RandomBits(), Budget(bits=1), at="weights:nothing")
    for wrong in ({"top": 0}, {"shortlist": 0}):
        with pytest.raises(InvalidConfig):
            ProgressiveBitSearch(**wrong)
    for wrong in ({"iterations": 0}, {"restarts": 0}, {"step": 0.0}, {"momentum": 1.0}, {"norm": "l7"}, {"keep": "x"}):
        with pytest.raises(InvalidConfig):
            ProjectedGradient(**wrong)


def test_random_draws_are_uniform_over_bits_and_exact_in_number(int8: nn.Module, digits: Dataset) -> None:
    """2,000 draws of 3 of 80 bits: each bit 75 times on average, chi-square with 79 degrees within its 99.9 % bound."""
    places = attackable(int8, "weights:fc.bias")
    victim = Victim(int8, places, LinearMemory.of(places, 64), Linear(), digits.take(2).all())
    count = torch.zeros(80)
    for number in range(2000):
        (item,) = draw_flips(victim, Budget(bits=3, one_per_weight=False), derive(0, number))
        for element, mask in zip(item.index.tolist(), item.mask.tolist(), strict=True):
            for bit in range(8):
                count[8 * element + bit] += mask >> bit & 1
    assert count.sum() == 6000
    assert float(((count - 75) ** 2 / 75).sum()) < 124.8


def test_msb_draws_take_only_the_highest_bit(int8: nn.Module, digits: Dataset) -> None:
    report = attack(int8, digits, RandomBits(msb=True), Budget(bits=30))
    assert {bit for _, places in report.fault.flip_list.sites for _, bit in places} == {7}
