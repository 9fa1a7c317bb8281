"""The attack on :mod:`holdfast.hazmat.scales_only`: the model back from its codes, with no data or a few labels.

With no data every hidden scale is guessed, such that weights have He's variance, and every bias is zero. Where a
normalisation was folded in, a few unlabelled inputs give channels mean 0 and variance 1. With labelled samples of his
own the attacker then fits the scales and biases alone: a few hundred numbers, where a surrogate from nothing has to
learn them all. Very few labels can make the guess worse; he may keep it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from holdfast.data import Dataset
from holdfast.hazmat.scales_only import ScalesOnly
from holdfast.seeds import derive
from holdfast.shielding.theft import Knockoff, TransferSet, surrogate, train_copy


def guess(parts: ScalesOnly, architecture: nn.Module, images: Tensor, *, seed: int = 0) -> nn.Module:
    """Return a float model from the open part alone.

    Args:
        architecture: any model of the victim's form; only the form is used.
        images: unlabelled inputs (n, *sample), for architectures with batch normalisation; zeros do for others.
    """
    return surrogate(architecture, parts.seen(), images, derive(seed, "scales-only"))


def recover(
    parts: ScalesOnly, architecture: nn.Module, labelled: Dataset, *, knockoff: Knockoff | None = None, seed: int = 0
) -> nn.Module:
    """Return a float model from the open part and the attacker's own ``labelled`` samples; the victim is not asked."""
    images, labels = labelled.all()
    copy = guess(parts, architecture, images, seed=seed)
    answers = torch.nn.functional.one_hot(labels, len(labelled.classes)).float()
    train_copy(copy, TransferSet(images, answers), knockoff or Knockoff(), derive(seed, "scales-only", "training"))
    return copy
