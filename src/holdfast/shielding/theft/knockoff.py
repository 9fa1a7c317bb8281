"""How the attacker turns answers into a copy (KnockoffNets; Orekondy et al., CVPR 2019), and which copy he keeps.

What he sees can be *kept* as it is while he learns the rest (in a *rush*, where that is little; *gently*, where scales
that were fitted are nearly right), or be where he begins to *tune* everything. None is best everywhere: fixed last
layers hinder whoever has to learn the first ones. He tries each, keeps some of his questions aside, and takes the copy
that answers those most like the victim. To leave a copy untrained is a try too, and so is what he would make without
having seen anything: a black box.
"""

from __future__ import annotations

import copy as copies
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from holdfast.errors import InvalidConfig
from holdfast.seeds import Seed
from holdfast.shielding.theft.surrogate import ScaledCodes, released
from holdfast.shielding.theft.transfer import Answers, Strategy, TransferSet

Way = Literal["keep", "gentle", "rush", "tune"]
_NORMS_LEARN = 32  # questions from which on normalisation may take its statistics from them
_FEW = 0.1  # share of all weights, below which hidden ones may be learned in a rush
_ENOUGH = 8  # questions kept aside; fewer choose no copy


@dataclass(frozen=True, slots=True, kw_only=True)
class Knockoff:
    """How the attacker asks and trains."""

    strategy: Strategy = "random"
    answers: Answers = "probabilities"  # what the victim says: probabilities, or its label alone
    steps: int = 300  # of Adam for each try, on batches of the transfer set
    batch_size: int = 64
    lr: float = 3e-3  # of weights he has to learn
    scale_lr: float = 3e-2  # of scales (as logarithms) and biases of layers whose codes he sees
    gentle_lr: float = 3e-3  # of such scales and biases, where they are nearly right already
    rush_lr: float = 3e-2  # of weights he has to learn, where they are few
    tune_lr: float = 3e-4  # of all weights, where what he sees is only a beginning
    ways: tuple[Way, ...] = ("keep", "gentle", "rush", "tune")  # his tries; with too few questions the first alone
    aside: float = 0.2  # share of his questions that choose among his tries

    def __post_init__(self) -> None:
        if self.strategy not in ("random", "adaptive") or self.answers not in ("probabilities", "labels"):
            raise InvalidConfig(f"no attack asks {self.strategy!r} for {self.answers!r}")
        if not self.ways or not set(self.ways) <= set(get_args(Way)) or not 0 <= self.aside < 1:
            raise InvalidConfig("ways are keep, gentle, rush and tune, one or more, and aside is a share below 1")
        rates = (self.lr, self.scale_lr, self.gentle_lr, self.rush_lr, self.tune_lr)
        if self.steps < 1 or self.batch_size < 2 or min(rates) <= 0:
            raise InvalidConfig("an attack takes a step or more, two samples or more each, and positive rates")


def best_copy(
    begun: nn.Module, questions: TransferSet, knockoff: Knockoff, seed: Seed, *, others: Sequence[nn.Module] = ()
) -> nn.Module:
    """Return the best copy that the attacker can tell, made from ``begun``, which stays as it is.

    Without questions, or with nothing to learn, it is ``begun``.

    Args:
        others: finished copies that are compared too, which learned from the same part of the questions.
    """
    if not len(questions.images) or not any(value.requires_grad for value in begun.parameters()):
        return begun
    fit, aside = questions.parted(knockoff.aside)
    if len(aside.images) < _ENOUGH:
        return _tried(begun, knockoff.ways[0], questions, knockoff, seed)
    ways = [way for way in knockoff.ways if _promising(begun, way)]
    tries = [begun, *(_tried(begun, way, fit, knockoff, seed) for way in ways), *others]
    losses = [_loss(made, aside) for made in tries]
    return tries[losses.index(min(losses))]


def _tried(begun: nn.Module, way: Way, questions: TransferSet, knockoff: Knockoff, seed: Seed) -> nn.Module:
    made = copies.deepcopy(begun)
    if way == "tune":
        made = released(made)
    rates = {"rush": knockoff.rush_lr, "tune": knockoff.tune_lr}
    scales = knockoff.gentle_lr if way == "gentle" else None
    train_copy(made, questions, knockoff, seed, lr=rates.get(way), scale_lr=scales)
    return made


def _promising(begun: nn.Module, way: Way) -> bool:
    """Say whether a try can differ from the others: gentle ones need scales, and a rush little else."""
    if way == "gentle":
        return any(isinstance(part, ScaledCodes) for part in begun.modules())
    return way != "rush" or _few(begun)


def _few(begun: nn.Module) -> bool:
    """Say whether hidden weights, scales apart, are few beside the codes that are seen."""
    codes = [part for part in begun.modules() if isinstance(part, ScaledCodes)]
    hidden = sum(value.numel() for value in begun.parameters() if value.requires_grad)
    hidden -= sum(value.numel() for part in codes for value in part.parameters() if value.requires_grad)
    return 0 < hidden < _FEW * (hidden + sum(part.codes.numel() for part in codes))


def _loss(made: nn.Module, asked: TransferSet) -> float:
    """Return the cross-entropy with the victim's answers; of a copy that overflowed, infinity."""
    with torch.no_grad():
        said = torch.cat([made(part) for part in asked.images.split(128)])
    found = float(torch.nn.functional.cross_entropy(said, asked.answers))
    return found if found == found else float("inf")


def train_copy(
    copy: nn.Module,
    questions: TransferSet,
    knockoff: Knockoff,
    seed: Seed,
    *,
    lr: float | None = None,
    scale_lr: float | None = None,
) -> None:
    """Fit what is hidden in ``copy`` to the victim's answers, in place: cross-entropy with soft labels, Adam.

    Args:
        lr: of weights, in place of the knockoff's own.
        scale_lr: of scales and biases of layers whose codes are seen, likewise.
    """
    groups = _groups(copy, knockoff.lr if lr is None else lr, knockoff.scale_lr if scale_lr is None else scale_lr)
    if not groups:
        return
    optimiser = torch.optim.Adam(groups)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, knockoff.steps)
    copy.train(len(questions.images) >= _NORMS_LEARN)
    for indices in _draws(len(questions.images), knockoff, seed):
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(copy(questions.images[indices]), questions.answers[indices])
        loss.backward()
        optimiser.step()
        decay.step()
    copy.eval()


def _groups(copy: nn.Module, lr: float, scale_lr: float) -> list[dict[str, Any]]:
    owned = {id(value) for part in copy.modules() if isinstance(part, ScaledCodes) for value in part.parameters()}
    learned = [value for value in copy.parameters() if value.requires_grad]
    groups = [
        {"params": [value for value in learned if id(value) in owned], "lr": scale_lr},
        {"params": [value for value in learned if id(value) not in owned], "lr": lr},
    ]
    return [group for group in groups if group["params"]]


def _draws(count: int, knockoff: Knockoff, seed: Seed) -> list[Tensor]:
    """Return the samples of every step: passes over all, each in an order of its own."""
    generator, size = seed.numpy(), min(count, knockoff.batch_size)
    wanted = knockoff.steps * size
    order = [torch.from_numpy(generator.permutation(count)) for _ in range(-(-wanted // count))]
    return list(torch.cat(order)[:wanted].split(size))
