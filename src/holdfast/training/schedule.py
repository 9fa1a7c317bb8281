"""How the learning rate rises and falls: after a warm-up in steps or along a cosine, counted in epochs or batches."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from holdfast.errors import InvalidConfig

_SHARES = (0.4, 0.6, 0.8)


@dataclass(frozen=True)
class Schedule:
    """SGD with Nesterov momentum; by default the learning rate falls tenfold at 2/5, 3/5 and 4/5 of the epochs.

    Those are the settings of Stutz et al. (MLSys 2021, appendix), who count batches: ``per="batch"``.
    """

    epochs: int = 30
    lr: float = 0.05  # at the start, or once warm
    batch_size: int = 128
    weight_decay: float = 5e-4  # on every trainable parameter
    momentum: float = 0.9
    decay: Literal["steps", "cosine", "constant"] = "steps"
    per: Literal["epoch", "batch"] = "epoch"  # what the decay counts
    warmup: int = 0  # epochs over which the rate first grows, batch by batch and linearly
    ema: float | None = None  # tau of the weights' moving average, which the trained model then has; e.g. 0.9975

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise InvalidConfig(f"a batch holds at least one sample, not {self.batch_size}")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise InvalidConfig(f"a learning rate is positive, not {self.lr}", hint="0.05 to 0.1 suits most nets here")
        if not (0 <= self.momentum < 1 and 0 <= self.weight_decay < math.inf):
            raise InvalidConfig("momentum lies in 0 .. 1 (excluded), and weight decay is not negative")
        if self.decay not in ("steps", "cosine", "constant") or self.per not in ("epoch", "batch"):
            hint = "decay: steps, cosine or constant; per: epoch or batch"
            raise InvalidConfig(f"no schedule decays by {self.decay!r} per {self.per!r}", hint=hint)
        if not 0 <= self.warmup <= max(0, self.epochs):
            raise InvalidConfig(f"a warm-up of {self.warmup} epochs does not fit into {self.epochs}")
        if self.ema is not None and not 0 < self.ema < 1:
            raise InvalidConfig(f"ema lies between 0 and 1, unlike {self.ema}", hint="0.9975 averages some 400 steps")

    def rate(self, epoch: int, batch: int, batches: int) -> float:
        """Return the learning rate of ``batch`` (of ``batches``) in ``epoch``, both from 0.

        A function of the position alone, so a resumed training has nothing to restore.
        """
        done, warm = epoch * batches + batch, self.warmup * batches
        full = self._decayed(epoch, self.epochs) if self.per == "epoch" else self._decayed(done, self.epochs * batches)
        return full * (done + 1) / warm if done < warm else full

    def _decayed(self, done: int, total: int) -> float:
        if self.decay == "constant":
            return self.lr
        if self.decay == "cosine":
            return self.lr * 0.5 * (1 + math.cos(math.pi * done / total))
        milestones = {max(1, round(total * share)) for share in _SHARES}
        return self.lr * 0.1 ** sum(done >= milestone for milestone in milestones)
