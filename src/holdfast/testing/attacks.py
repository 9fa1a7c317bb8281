"""The laws of an attack."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from holdfast.faults.adversarial import Attack, Budget, FlipList, LinearMemory, Objective, Untargeted, Victim
from holdfast.models import manifest_of, select, stored
from holdfast.quantization import quantize
from holdfast.seeds import derive
from holdfast.testing.contract import require

_BUDGETS = (
    Budget(bits=1),
    Budget(bits=5, rows=1, row_bytes=64),
    Budget(bits=9, rows=2, row_bytes=32, one_per_weight=False),
)


def check_attack(attack: Attack, *, objective: Objective | None = None, at: str = "weights") -> None:
    """Check every law of :class:`holdfast.faults.adversarial.Attack` on a small net in several formats.

    The net takes images of shape (1, 4, 4), has the linear layers ``1`` and ``3``, and 4 classes.

    Args:
        attack: to be checked.
        objective: what it is given; any wrong answer unless given.
        at: weights it is given.

    Raises:
        ContractBroken: the first law that does not hold.
    """
    require(isinstance(attack, Attack), attack, "is no Attack")
    parameters = getattr(type(attack), "__dataclass_params__", None)
    require(parameters is not None and parameters.frozen, attack, "an attack is a frozen dataclass")
    flipped = 0
    for format in ("int8", "rquant4", "fp32"):
        model = _net() if format == "fp32" else quantize(_net(), format)
        for budget in _BUDGETS:
            flipped += _check_search(attack, budget, model, objective or Untargeted(), at)
    require(flipped > 0, attack, "leaves flips in one victim at least")


def _check_search(attack: Attack, budget: Budget, model: nn.Module, objective: Objective, at: str) -> int:
    before, state = manifest_of(model).digest, _global_state()
    victim, calls = _searched(attack, budget, model, objective, at)
    found = FlipList.of(victim.flips)
    require(_global_state() == state, attack, "must draw from its seed alone, not from a global generator")
    broken = budget.exceeded(victim.memory, victim.flips)
    require(not broken, attack, f"keeps its budget, and not {broken}")
    if found.bits:
        require(bool(victim.history), attack, "keeps (victim.keep) what is best so far")
        require(victim.history[-1] == (found.bits, victim.score()), attack, "leaves the flips it kept last")
        require(bool(calls) and calls[-1][0] <= calls[-1][1], attack, "tells its progress")
    victim.restore()
    require(manifest_of(model).digest == before, attack, "changes the model through the victim's flips only")
    again, _ = _searched(attack, budget, model, objective, at)
    require(FlipList.of(again.flips) == found, attack, "the same seed must give the same flips")
    again.restore()
    return found.bits


def _searched(
    attack: Attack, budget: Budget, model: nn.Module, objective: Objective, at: str
) -> tuple[Victim, list[tuple[int, int]]]:
    calls: list[tuple[int, int]] = []
    places = {site: stored(model, site) for site in select(model, at)}
    memory = LinearMemory.of_model(model, budget.row_bytes)
    victim = Victim(model, places, memory, objective, _batch(), lambda *step: calls.append(step))
    attack.search(victim, budget, derive(7, "check-attack"))
    return victim, calls


def _net() -> nn.Module:
    generator = derive(0, "check-attack", "net").torch()
    with torch.random.fork_rng(devices=[]):  # layers draw weights of their own first
        net = nn.Sequential(nn.Flatten(), nn.Linear(16, 6), nn.ReLU(), nn.Linear(6, 4)).eval()
    with torch.no_grad():
        for value in net.parameters():
            value.copy_(torch.randn(value.shape, generator=generator) / value.shape[-1] ** 0.5)
    return net


def _batch() -> tuple[Tensor, Tensor]:
    """Return images and, as labels, what the net says of them, so that there is something to lose."""
    images = torch.randn(24, 1, 4, 4, generator=derive(0, "check-attack", "images").torch())
    with torch.no_grad():
        return images, _net()(images).argmax(1)


def _global_state() -> tuple[bytes, bytes]:
    return torch.get_rng_state().numpy().tobytes(), repr(np.random.get_state(legacy=False)).encode()
