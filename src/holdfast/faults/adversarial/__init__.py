"""Bit errors that an adversary chooses, within a budget of bits and DRAM rows."""

from holdfast.faults.adversarial.attack import AttackReport, attack
from holdfast.faults.adversarial.bit_trojan import BitTrojan
from holdfast.faults.adversarial.budget import Budget, LinearMemory
from holdfast.faults.adversarial.fixed_flips import FixedFlips, FlipList
from holdfast.faults.adversarial.objective import Objective, Targeted, Untargeted, objectives
from holdfast.faults.adversarial.progressive_bit_search import ProgressiveBitSearch
from holdfast.faults.adversarial.projected_gradient import ProjectedGradient
from holdfast.faults.adversarial.protocol import Attack, attacks
from holdfast.faults.adversarial.random_bits import RandomBits
from holdfast.faults.adversarial.trojan import Trojan
from holdfast.faults.adversarial.victim import Victim

__all__ = [
    "Attack",
    "AttackReport",
    "BitTrojan",
    "Budget",
    "FixedFlips",
    "FlipList",
    "LinearMemory",
    "Objective",
    "ProgressiveBitSearch",
    "ProjectedGradient",
    "RandomBits",
    "Targeted",
    "Trojan",
    "Untargeted",
    "Victim",
    "attack",
    "attacks",
    "objectives",
]
