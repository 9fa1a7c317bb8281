"""Weight clipping: bounds that make every weight's range, and so the reach of one bit error, small.

Global clipping holds all weights in [-w_max, w_max] (Stutz et al., MLSys 2021, section 4.2). Per-layer clipping scales
w_max by each tensor's own range (after Stutz et al., TPAMI 2022). Learned clipping starts there and trains the bounds,
held small by a penalty (the idea of Chitsaz et al., TMLR 2023).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from holdfast.errors import InvalidConfig
from holdfast.training.recipes.protocol import BOUNDS
from holdfast.training.schedule import Schedule

Scope = Literal["global", "layer", "learned"]

_NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)
_SLACK = 1e-5  # a weight this near its bound lies on it; a scale of 1 + a' cannot come nearer in float32
_LEAST = 1e-3  # a learned bound stays above this share of ``clip``


@dataclass(frozen=True, kw_only=True)
class Clipped:
    """What the recipes here share: clipping, label smoothing and a schedule."""

    clip: float | None = None  # w_max; None leaves the weights free
    clip_scope: Scope = "global"  # layer: w_max times each tensor's range over the widest one's; learned: from there on
    bound_decay: float = 0.1  # penalty on learned bounds b: bound_decay / 2 * b**2 each
    label_smoothing: float = 0.0  # share of the target spread evenly over all classes
    schedule: Schedule = field(default_factory=Schedule)

    def __post_init__(self) -> None:
        require_positive("clip", self.clip)
        require_one_of("clip_scope", self.clip_scope, ("global", "layer", "learned"))
        require_share("label_smoothing", self.label_smoothing)
        if not isinstance(self.schedule, Schedule):
            raise InvalidConfig(f"schedule is {self.schedule!r}", hint="pass a Schedule, or --epochs and --schedule")
        if not 0 <= self.bound_decay < math.inf:
            raise InvalidConfig(f"bound_decay is a penalty of zero or more, not {self.bound_decay}")
        if self.clip is None and self.clip_scope != "global":
            raise InvalidConfig(f"clip_scope={self.clip_scope} without clip bounds nothing", hint="add clip=0.1")

    def prepare(self, model: nn.Module) -> None:
        """Add the bounds of per-layer or learned clipping to ``model``, as a buffer or as a parameter (tensors,)."""
        if self.clip is None or self.clip_scope == "global":
            return
        if BOUNDS in {name for name, _ in (*model.named_parameters(), *model.named_buffers())}:
            raise InvalidConfig(f"the model has a tensor {BOUNDS} already", hint="it belongs to another training")
        bounds = layer_bounds(model, self.clip)
        if self.clip_scope == "learned":
            model.register_parameter(BOUNDS, nn.Parameter(bounds))
        else:
            model.register_buffer(BOUNDS, bounds)

    def differentiate(self, model: nn.Module) -> None:
        """Set the gradient of learned bounds: what it would bring if the weights that lie on them moved on."""
        bounds = getattr(model, BOUNDS, None)
        if isinstance(bounds, nn.Parameter):
            each = zip(_centred(model), bounds.detach(), strict=True)
            pulls = [_pull(value, centre, bound) for (_, value, centre), bound in each]
            bounds.grad = torch.stack(pulls) + self.bound_decay * bounds.detach()

    def finish(self, model: nn.Module) -> None:
        """Take the bounds away."""
        if hasattr(model, BOUNDS):
            delattr(model, BOUNDS)

    def project(self, model: nn.Module) -> None:
        """Clip the master weights."""
        if self.clip is None:
            return
        if self.clip_scope == "global":
            clip_weights(model, self.clip)
            return
        bounds = getattr(model, BOUNDS, None)
        if not isinstance(bounds, Tensor):
            raise InvalidConfig("the model has no bounds to clip to", hint="call prepare(model) first, as train does")
        if isinstance(bounds, nn.Parameter):
            bounds.data.clamp_(min=_LEAST * self.clip)
        clip_weights(model, bounds.detach())


def clip_weights(model: nn.Module, clip: float | Tensor | None) -> None:
    """Clamp every trainable parameter to [-clip, clip], in place; scales of normalisation layers to [1-clip, 1+clip].

    Stutz et al. write those scales as 1 + a' and clip a': a scale held below a small ``clip`` would shrink the
    activations layer by layer until nothing trains. A tensor holds one bound per parameter, in their order.
    """
    if clip is None:
        return
    found = list(_centred(model))
    bounds = clip.tolist() if isinstance(clip, Tensor) else [clip] * len(found)
    alike: dict[tuple[int, float], list[Tensor]] = {}
    for (_, value, centre), bound in zip(found, bounds, strict=True):
        alike.setdefault((centre, bound), []).append(value)
    with torch.no_grad():
        for (centre, bound), values in alike.items():
            clamp_all_(values, centre - bound, centre + bound)


def clamp_all_(values: Sequence[Tensor], low: float, high: float) -> None:
    """Clamp all of ``values`` in place: a few launches on a GPU, however many tensors there are."""
    if values:
        torch._foreach_clamp_min_(list(values), low)
        torch._foreach_clamp_max_(list(values), high)


def layer_bounds(model: nn.Module, clip: float) -> Tensor:
    """Return the bound of each trainable parameter, shape (tensors,): its range over the widest one's, times ``clip``.

    So the widest tensor is held in [-clip, clip] and every other one in proportion. A tensor without a range of its
    own yet, such as biases before training, gets ``clip``.
    """
    ranges = torch.stack([(value.detach() - centre).abs().max().float() for _, value, centre in _centred(model)])
    return torch.where(ranges > 0, ranges / ranges.max().clamp(min=torch.finfo().tiny), 1.0) * clip


def _centred(model: nn.Module) -> Iterator[tuple[str, nn.Parameter, int]]:
    """Yield the name, the value and the centre of the range of every trainable parameter, tied ones once."""
    scales = {
        f"{path}.weight" if path else "weight" for path, module in model.named_modules() if isinstance(module, _NORMS)
    }
    for name, value in model.named_parameters():
        if value.requires_grad and value.numel() and name != BOUNDS:
            yield name, value, int(name in scales)


def _pull(value: nn.Parameter, centre: int, bound: Tensor) -> Tensor:
    """Return the gradient of one bound: what the weights that lie on it and press outwards ask for.

    It is scaled by the root of the tensor's size (Esser et al., LSQ, section 2.2). Weights that want to go inwards can,
    and say nothing about their bound.
    """
    offset = value.detach() - centre
    gradient = torch.zeros_like(offset) if value.grad is None else value.grad
    pressure = (gradient * offset.sign()).clamp(max=0) * (offset.abs() >= bound * (1 - _SLACK))
    total: Tensor = pressure.sum()
    return total / math.sqrt(value.numel())


def require_positive(name: str, value: float | None) -> None:
    """Raise :class:`InvalidConfig` unless ``value`` is None or positive and finite."""
    if value is not None and not 0 < value < math.inf:
        raise InvalidConfig(f"{name} must be positive, not {value}", hint=f"{name}=none turns it off")


def require_share(name: str, value: float) -> None:
    """Raise :class:`InvalidConfig` unless ``value`` lies in 0 .. 1, the end excluded."""
    if not 0 <= value < 1:
        raise InvalidConfig(f"{name} lies between 0 and 1, not {value}")


def require_one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise :class:`InvalidConfig` unless ``value`` is among ``choices``."""
    if value not in choices:
        raise InvalidConfig(f"{name} is {value!r}", hint=f"choose one of {', '.join(choices)}")
