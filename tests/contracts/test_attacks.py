"""Every registered attack keeps the laws of an attack, and a broken one is caught."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from holdfast.faults.adversarial import Budget, Targeted, Trojan, Victim, attacks, objectives
from holdfast.faults.adversarial.random_bits import draw_flips
from holdfast.seeds import Seed, derive
from holdfast.testing import ContractBroken, check_attack

SPECS = {
    "progressive-bit-search": [
        "progressive-bit-search",
        "progressive-bit-search:top=none",
        "progressive-bit-search:top=2,shortlist=1",
    ],
    "projected-gradient": [
        "projected-gradient:iterations=4,restarts=3",
        "projected-gradient:iterations=3,norm=l2,per_layer=true,keep=ascent,momentum=0",
        "projected-gradient:iterations=3,norm=sign,relative=false,rank=codes",
    ],
    "random-bits": ["random-bits", "random-bits:restarts=5,msb=true"],
    "bit-trojan": [],  # below: it wants an objective and a layer of its own
}


def test_every_registered_attack_is_tested() -> None:
    assert set(attacks.names()) == set(SPECS)


@pytest.mark.parametrize("spec", [spec for specs in SPECS.values() for spec in specs])
def test_every_attack_keeps_the_contract(spec: str) -> None:
    check_attack(attacks.build(spec))


def test_a_bit_trojan_keeps_the_contract() -> None:
    check_attack(attacks.build("bit-trojan:neurons=4,shape_steps=3"), objective=Trojan(label=1), at="weights:3.weight")


def test_attacks_keep_the_contract_with_every_objective() -> None:
    assert set(objectives.names()) == {"untargeted", "targeted", "trojan"}
    for objective in (Targeted(label=2), Targeted(label=1, source=0, stealth=1.0), Trojan(label=2, size=2)):
        check_attack(attacks.build("random-bits:restarts=2"), objective=objective)


@dataclass(frozen=True)
class Broken:
    """Breaks one law, by name."""

    law: str

    def search(self, victim: Victim, budget: Budget, seed: Seed) -> None:
        if self.law == "global":
            torch.rand(1)
        if self.law == "greedy":
            budget = Budget(bits=budget.bits + 1)
        if self.law == "replay":
            seed = derive(torch.seed() % 2**32)
        victim.assign([] if self.law == "idle" else draw_flips(victim, budget, seed))
        if self.law != "silent":
            victim.keep(victim.score())
        if self.law == "other":
            victim.assign(draw_flips(victim, budget, derive(seed, 1)))
        if self.law == "direct":
            next(iter(victim.places.values())).xor_(torch.tensor([0]), torch.tensor([1]))
            victim.history[-1] = (victim.history[-1][0], victim.score())
        if self.law != "mute":
            victim.progress(1, 1)


def test_the_unbroken_one_passes() -> None:
    check_attack(Broken("none"))


@pytest.mark.parametrize(
    ("law", "message"),
    [
        ("global", "global generator"),
        ("greedy", "2 bits of 1"),
        ("replay", "global generator|same seed"),
        ("idle", "leaves flips in one"),
        ("silent", "keeps"),
        ("other", "kept last"),
        ("direct", "flips only"),
        ("mute", "progress"),
    ],
)
def test_each_broken_law_is_named(law: str, message: str) -> None:
    with pytest.raises(ContractBroken, match=message):
        check_attack(Broken(law))
