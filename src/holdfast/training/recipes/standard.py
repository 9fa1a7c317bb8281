"""Plain training of float weights, optionally clipped."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from holdfast.errors import InvalidConfig
from holdfast.seeds import Seed
from holdfast.training.recipes.protocol import Schedule, loss_and_gradients, recipes


@recipes.register("standard")
@dataclass(frozen=True, kw_only=True)
class Standard:
    """Cross-entropy on clean weights; ``clip`` adds Stutz et al.'s clipping to [-w_max, w_max] after each step."""

    clip: float | None = None  # w_max
    schedule: Schedule = field(default_factory=Schedule)

    def __post_init__(self) -> None:
        require_positive("clip", self.clip)

    def gradients(
        self, model: nn.Module, images: Tensor, labels: Tensor, seed: Seed, last_loss: float
    ) -> tuple[float, list[Tensor]]:
        """Return the loss and its gradients."""
        loss, found = loss_and_gradients(model, dict(model.named_parameters()), images, labels, keep_buffers=False)
        return float(loss), found

    def project(self, model: nn.Module) -> None:
        """Clip the weights."""
        clip_weights(model, self.clip)


def clip_weights(model: nn.Module, clip: float | None) -> None:
    """Clamp every parameter to [-clip, clip], in place."""
    if clip is not None:
        with torch.no_grad():
            for value in model.parameters():
                value.clamp_(-clip, clip)


def require_positive(name: str, value: float | None) -> None:
    """Raise :class:`InvalidConfig` unless ``value`` is None or positive."""
    if value is not None and not value > 0:
        raise InvalidConfig(f"{name} must be positive, not {value}")
