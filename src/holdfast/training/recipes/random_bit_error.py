"""Random bit error training (RandBET; Stutz et al., MLSys 2021, section 4.3 and algorithm 1)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from holdfast.errors import InvalidConfig
from holdfast.execution.condition import Population
from holdfast.faults import BitErrors
from holdfast.models.site import Site
from holdfast.numerics import bits
from holdfast.numerics.formats import Encoded, Format, formats
from holdfast.seeds import Seed
from holdfast.training.recipes.protocol import Schedule, loss_and_gradients, recipes
from holdfast.training.recipes.standard import clip_weights, require_positive


@recipes.register("random-bit-error")
@dataclass(frozen=True, kw_only=True)
class RandomBitErrorTraining:
    """Quantisation-aware training on the mean of clean and bit-error gradients, straight through the quantiser.

    Every step quantises the clipped master weights to real codes, takes the gradient at the decoded codes, flips bits
    of the same codes at ``rate`` (a fresh chip each batch), takes the gradient there, and steps the master weights
    along the mean of both. No copy of the model is made; running statistics come from the clean pass.
    """

    format: str = "rquant8"
    rate: float = 0.01  # p, per bit
    clip: float | None = 0.1  # w_max
    start_loss: float = 1.75  # bit errors begin once the clean loss of a batch is below it
    gradient_clip: float | None = 0.05  # element-wise bound of the bit-error gradient, as in the released code
    schedule: Schedule = field(default_factory=Schedule)

    def __post_init__(self) -> None:
        if not 0 <= self.rate <= 1:
            raise InvalidConfig(f"a bit error rate lies between 0 and 1, not {self.rate}")
        require_positive("clip", self.clip)
        require_positive("gradient_clip", self.gradient_clip)

    def gradients(
        self, model: nn.Module, images: Tensor, labels: Tensor, seed: Seed, last_loss: float
    ) -> tuple[float, list[Tensor]]:
        """Return the clean loss and the mean of clean and perturbed gradients."""
        chosen = formats.build(self.format)
        encoded = {name: chosen.encode(value) for name, value in model.named_parameters()}
        clean = {name: chosen.decode(item) for name, item in encoded.items()}
        loss, found = loss_and_gradients(model, clean, images, labels, keep_buffers=False)
        if not (math.isfinite(last_loss) and last_loss < self.start_loss):
            return float(loss), found
        faulty = self._with_errors(chosen, encoded, seed)
        _, extra = loss_and_gradients(model, faulty, images, labels, keep_buffers=True)
        if self.gradient_clip is not None:
            extra = [value.clamp(-self.gradient_clip, self.gradient_clip) for value in extra]
        return float(loss), [(one + other) / 2 for one, other in zip(found, extra, strict=True)]

    def _with_errors(self, chosen: Format, encoded: dict[str, Encoded], seed: Seed) -> dict[str, Tensor]:
        # one flat memory for all tensors: drawing errors costs per site, and these nets have many small ones
        memory = torch.cat([item.codes.reshape(-1) for item in encoded.values()])
        site = Site("weights", "all", tuple(memory.shape), chosen.name, chosen.bits)
        for item in BitErrors(rate=self.rate).flips(Population((site,)), seed):
            bits.xor_(memory, item.index, item.mask)
        parts = memory.split([item.codes.numel() for item in encoded.values()])
        return {
            name: chosen.decode(Encoded(part.view(item.codes.shape), item.qparams))
            for (name, item), part in zip(encoded.items(), parts, strict=True)
        }

    def project(self, model: nn.Module) -> None:
        """Clip the master weights."""
        clip_weights(model, self.clip)
