"""When bit errors enter a training, and how their rate grows."""

from __future__ import annotations

import math
from typing import Literal

from holdfast.training.recipes.protocol import Loss

Start = Literal["below", "once", "released", "always"]
Ramp = Literal["none", "steps", "linear"]
STARTS: tuple[Start, ...] = ("below", "once", "released", "always")
RAMPS: tuple[Ramp, ...] = ("none", "steps", "linear")

_STAGES = 20
_MARGIN = 1.15


def started(rule: Start, threshold: float, last_loss: float) -> bool:
    """Say whether this batch is hit by errors, given what the batch before lost.

    ``below``: its clean loss was below ``threshold``. ``once``: the same, and errors never stop again (Stutz et al.,
    MLSys 2021, section 4.3, can be read either way). ``released``, the authors' code: it was below 1.15 times the
    threshold, and the mean of its clean and its perturbed loss (zero where there was none) was not above the
    threshold; so errors may stop again. ``always``: from the first batch.
    """
    perturbed = last_loss.perturbed if isinstance(last_loss, Loss) else None
    if rule == "always" or (rule == "once" and perturbed is not None):
        return True
    if rule != "released" or not math.isfinite(last_loss):
        return last_loss < threshold
    return last_loss < _MARGIN * threshold and (last_loss + (perturbed or 0.0)) / 2 <= threshold


def ramped(ramp: Ramp, epoch: int, epochs: int) -> float:
    """Return the share of the full rate in ``epoch``, which every ramp reaches by the middle of the training.

    ``steps``: (i+1)/20 from epoch i * floor((epochs/2)/20), i = 0 .. 19, as in the authors' code; a training of less
    than 40 epochs skips stages instead of never getting there. ``linear``: grows with every epoch.
    """
    if ramp == "none":
        return 1.0
    if ramp == "linear":
        return min(1.0, 2 * (epoch + 1) / epochs)
    length = epochs // 2 // _STAGES
    stage = epoch // length if length else 2 * _STAGES * epoch // epochs
    return min(stage + 1, _STAGES) / _STAGES
