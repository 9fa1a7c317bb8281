"""Bit errors that an adversary chooses, within a budget of bits and DRAM rows."""

from holdfast.faults.adversarial.budget import Budget, LinearMemory
from holdfast.faults.adversarial.fixed_flips import FixedFlips, FlipList

__all__ = ["Budget", "FixedFlips", "FlipList", "LinearMemory"]
