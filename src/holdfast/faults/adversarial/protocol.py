"""What an attack is: a frozen dataclass of hyper-parameters that searches the bits of a victim."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from holdfast._registry import Registry
from holdfast.faults.adversarial.budget import Budget
from holdfast.faults.adversarial.victim import Victim
from holdfast.seeds import Seed


@runtime_checkable
class Attack(Protocol):
    """A search for harmful flips."""

    def search(self, victim: Victim, budget: Budget, seed: Seed) -> None:
        """Leave the best flips found in ``victim``, within ``budget``.

        The victim comes without flips. Call ``victim.keep`` whenever flips become the best so far, and
        ``victim.progress`` at every step. Draws from ``seed`` alone.
        """
        ...


attacks: Registry[Attack] = Registry("attack", "holdfast.attacks")
