r"""Fine-tuning away from public weights, aware of a reduced integer range (after TSQP, IEEE S&P 2025).

TSQP names a parameter de-similarity loss and motivates it by the information bottleneck; its released function
returns the constant 0, and the released material has no formula, so this one is our own, stated in full. The attacker
knows the public weights ``P`` and sees the deployed codes ``W``. The bottleneck asks for weights that keep what they
say about the task and lose what ``P`` says about them:

    minimise  cross-entropy(W)  +  strength * I(W; P),

``I`` in nats per weight. With one channel's weights and public weights taken as draws of a joint normal law whose
correlation is their cosine ``c``, ``I = -log(1 - c^2) / 2`` per weight. A scale per channel changes nothing, so neither
the hidden scale nor a folded normalisation does. ``floor`` is added to ``1 - c^2``: a fine-tuning starts at ``c = 1``,
where ``I`` has no bound.

What it cannot do: hide the codes themselves. An attacker who needs no public model is not hindered at all, see
``docs/model-stealing.md``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from holdfast.errors import InvalidConfig
from holdfast.seeds import Seed
from holdfast.training.recipes.memory import Memory
from holdfast.training.recipes.protocol import Loss, loss_and_gradients, recipes, trainable
from holdfast.training.recipes.standard import Standard

_PUBLIC, _PEAKS = "holdfast_public_", "holdfast_peaks"
_MEMORY = 0.9  # of the moving average of activation peaks
_CODE_MAX = 127
_LEAST = 1e-12


@recipes.register("de-similarity")
@dataclass(frozen=True, kw_only=True)
class DeSimilarity(Standard):
    """Quantisation-aware fine-tuning that moves away from the weights it starts from.

    The public weights are those of the model the training starts with. Weights pass through ``format``, the inputs of
    convolutions and linear layers through codes -top_code .. top_code with a clamp, both straight through; what is
    clamped has no gradient. ``strength=0`` is reduced-range quantisation-aware training alone.
    """

    format: str | None = "int8"
    strength: float = 0.3  # of I(W; P) beside the cross-entropy
    floor: float = 0.01  # added to 1 - c^2: I stays below -log(floor) / 2
    top_code: int | None = None  # of activations in training, as in export(top_code=...); None leaves them float

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.strength < math.inf or not 0 < self.floor < 1:
            raise InvalidConfig("strength is zero or more, and floor lies between 0 and 1", hint="strength=0.3")
        if self.top_code is not None and not 1 <= self.top_code <= _CODE_MAX:
            raise InvalidConfig(f"the top activation code is 1 .. {_CODE_MAX}, not {self.top_code}")

    def prepare(self, model: nn.Module) -> None:
        """Keep the public weights, and a peak for each layer's input, beside the model."""
        super().prepare(model)
        for number, value in enumerate(_weights(model).values()):
            model.register_buffer(f"{_PUBLIC}{number}", value.detach().clone())
        model.register_buffer(_PEAKS, torch.zeros(len(_layers(model)), device=_device(model)))

    def finish(self, model: nn.Module) -> None:
        """Take them away."""
        super().finish(model)
        for name in [name for name in model._buffers if name.startswith(_PUBLIC) or name == _PEAKS]:
            delattr(model, name)

    def gradients(
        self, model: nn.Module, images: Tensor, labels: Tensor, seed: Seed, last_loss: float
    ) -> tuple[Loss, list[Tensor]]:
        """Return the cross-entropy, and the gradients of the whole objective."""
        weights: Mapping[str, Tensor] = trainable(model)
        if self.format is not None:
            weights = Memory.of(self.format, weights).clean
        with _reduced(model, self.top_code):
            loss, found = loss_and_gradients(
                model, weights, images, labels, keep_buffers=False, label_smoothing=self.label_smoothing
            )
        if self.strength:
            self._move_away(model, dict(zip(trainable(model), found, strict=True)))
        return loss, found

    def _move_away(self, model: nn.Module, gradients: dict[str, Tensor]) -> None:
        """Add the gradient of the information term, taken at the master weights."""
        weights = {name: value.detach().requires_grad_() for name, value in _weights(model).items()}
        public = [model.get_buffer(f"{_PUBLIC}{number}") for number in range(len(weights))]
        told = information(list(weights.values()), public, floor=self.floor)
        for name, gradient in zip(weights, torch.autograd.grad(told, list(weights.values())), strict=True):
            gradients[name] += self.strength * gradient


def information(weights: list[Tensor], public: list[Tensor], *, floor: float = 0.01) -> Tensor:
    """Return I(W; P) in nats per weight, shape (): the mean over channels, weighted by their sizes.

    Args:
        weights, public: layer by layer, shapes (out, ...).
        floor: added to 1 - c^2.
    """
    total = weights[0].new_zeros(())
    for own, other in zip(weights, public, strict=True):
        left, right = own.flatten(1), other.flatten(1)
        squares = left.square().sum(1) * right.square().sum(1)
        share = (left * right).sum(1).square() / squares.clamp(min=_LEAST)
        total = total - 0.5 * left.shape[1] * (1 - share + floor).clamp(max=1.0).log().sum()
    return total / sum(value.numel() for value in weights)


def _weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return what can be similar: the trainable matrices and filters."""
    return {name: value for name, value in trainable(model).items() if value.dim() >= 2}


def _layers(model: nn.Module) -> list[nn.Module]:
    return [part for part in model.modules() if isinstance(part, nn.Conv2d | nn.Linear)]


def _device(model: nn.Module) -> torch.device:
    return next(iter(model.parameters())).device


@contextmanager
def _reduced(model: nn.Module, top_code: int | None) -> Iterator[None]:
    """Pass every layer's input through its codes for the length of the block."""
    if top_code is None:
        yield
        return
    peaks = model.get_buffer(_PEAKS)
    handles = [
        layer.register_forward_pre_hook(
            lambda _, args, number=number: (_encoded(args[0], peaks[number], top_code), *args[1:])
        )
        for number, layer in enumerate(_layers(model))
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _encoded(x: Tensor, peak: Tensor, top_code: int) -> Tensor:
    """Return ``x`` through codes of which ``top_code`` is the moving average of peaks; ``peak`` moves in place."""
    seen = x.detach().abs().amax().to(peak)
    peak.copy_(torch.where(peak > 0, _MEMORY * peak + (1 - _MEMORY) * seen, seen))
    scale = torch.where(peak > 0, peak / top_code, torch.ones_like(peak))
    zero = torch.zeros((), dtype=torch.int32, device=x.device)
    return torch.fake_quantize_per_tensor_affine(x, scale, zero, -top_code, top_code)
