"""Plain training of float weights, optionally clipped."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from holdfast.errors import InvalidConfig
from holdfast.seeds import Seed
from holdfast.training.recipes.protocol import Schedule, loss_and_gradients, recipes

_NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)


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
    """Clamp every parameter to [-clip, clip], in place; scales of normalisation layers to [1 - clip, 1 + clip].

    Stutz et al. write those scales as 1 + a' and clip a': a scale held below a small ``clip`` would shrink the
    activations layer by layer until nothing trains.
    """
    if clip is None:
        return
    with torch.no_grad():
        for module in model.modules():
            for name, value in module.named_parameters(recurse=False):
                centre = 1 if name == "weight" and isinstance(module, _NORMS) else 0
                value.clamp_(centre - clip, centre + clip)


def require_positive(name: str, value: float | None) -> None:
    """Raise :class:`InvalidConfig` unless ``value`` is None or positive."""
    if value is not None and not value > 0:
        raise InvalidConfig(f"{name} must be positive, not {value}")
