"""The attacker's copy: the architecture, with what he sees, what is public, and fresh weights for the rest."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from holdfast.errors import InvalidConfig
from holdfast.seeds import Seed
from holdfast.shielding.theft.similarity import fitted_scale
from holdfast.shielding.theft.view import Seen, View

_Layer = nn.Conv2d | nn.Linear
_HALF = 0.5 + 1e-4  # of a code: what rounding leaves, and float32's own


class ScaledCodes(nn.Module):
    """A layer with known int8 codes and one scale and one bias per output channel, learned where they are hidden."""

    codes: Tensor

    def __init__(self, layer: _Layer, seen: Seen, scale: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.form = copy.deepcopy(layer)
        self.form.weight = self.form.bias = None  # type: ignore[assignment]  # geometry alone
        self.register_buffer("codes", seen.codes.float())
        self.log_scale = nn.Parameter(scale.clamp(min=1e-12).log(), requires_grad=seen.scale is None)
        self.bias = nn.Parameter(bias.clone(), requires_grad=seen.bias is None)

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output for ``x`` (batch, *sample)."""
        weight = self.codes * self.log_scale.exp().view(-1, *[1] * (self.codes.dim() - 1))
        if isinstance(self.form, nn.Conv2d):
            out: Tensor = self.form._conv_forward(x, weight, self.bias)
            return out
        return linear(x, weight, self.bias)

    def released(self) -> _Layer:
        """Return an ordinary layer that begins where this one is, and whose every weight can be learned."""
        layer = self.form
        weight = self.codes * self.log_scale.detach().exp().view(-1, *[1] * (self.codes.dim() - 1))
        layer.weight, layer.bias = nn.Parameter(weight), nn.Parameter(self.bias.detach().clone())
        return layer


def released(made: nn.Module) -> nn.Module:
    """Turn all layers with known codes into ordinary ones, in place, and return ``made``."""
    for name, part in list(made.named_modules()):
        if isinstance(part, ScaledCodes):
            _put(made, name, part.released())
    return made


@dataclass(frozen=True, slots=True)
class Folded:
    """A layer with the normalisation after it folded in: float32 weight (out, ...), bias (out,)."""

    weight: Tensor
    bias: Tensor


def norms_after(model: nn.Module, example: Tensor) -> dict[str, str]:
    """Return for each convolution or linear layer the batch normalisation that reads its output, by path.

    Args:
        example: one batch (batch, *sample); its values do not matter.
    """
    made: dict[int, tuple[str, Tensor]] = {}
    pairs: dict[str, str] = {}
    handles = []
    for name, part in model.named_modules():
        if isinstance(part, _Layer):
            handles.append(
                part.register_forward_hook(lambda _, __, out, name=name: made.update({id(out): (name, out)}))
            )
        elif isinstance(part, nn.modules.batchnorm._BatchNorm):
            handles.append(part.register_forward_pre_hook(
                lambda _, args, name=name: pairs.update({made[id(args[0])][0]: name} if id(args[0]) in made else {})
            ))  # fmt: skip
    try:
        with torch.no_grad():
            model.eval()(example)
    finally:
        for handle in handles:
            handle.remove()
    return pairs


def folded(model: nn.Module, example: Tensor) -> dict[str, Folded]:
    """Return every convolution and linear layer of float ``model`` with its normalisation folded in, by path."""
    pairs = norms_after(model, example)
    return {
        name: _fold(part, model.get_submodule(pairs[name]) if name in pairs else None)
        for name, part in model.named_modules()
        if isinstance(part, _Layer)
    }


def _fold(layer: _Layer, norm: nn.Module | None) -> Folded:
    weight = layer.weight.detach()
    bias = weight.new_zeros(len(weight)) if layer.bias is None else layer.bias.detach()
    if not isinstance(norm, nn.modules.batchnorm._BatchNorm):
        return Folded(weight, bias)
    if norm.running_mean is None or norm.running_var is None:
        raise InvalidConfig("a batch normalisation without running statistics cannot be folded")
    gain = (norm.running_var + norm.eps).rsqrt() * (1.0 if norm.weight is None else norm.weight.detach())
    shift = 0.0 if norm.bias is None else norm.bias.detach()
    return Folded(weight * gain.view(-1, *[1] * (weight.dim() - 1)), (bias - norm.running_mean) * gain + shift)


def zero_data_scale(codes: Tensor) -> Tensor:
    """Guess the scale of each channel (out,) from its codes alone: weights of He's variance, 2 / inputs."""
    rows = codes.detach().flatten(1).float()
    return math.sqrt(2 / rows.shape[1]) / rows.square().mean(1).sqrt().clamp(min=1e-6)


def surrogate(
    architecture: nn.Module, seen: View, images: Tensor, seed: Seed, *, public: nn.Module | None = None
) -> nn.Module:
    """Return the attacker's model before any question.

    What the worker sees is taken as it is. A layer whose codes are those of ``public`` is the public layer: its scale
    and bias are known too. Other hidden scales are fitted to ``public``, or guessed as He's variance. Before a
    normalisation that was folded in, neither is needed: each channel gets the mean and variance on the attacker's
    own images that the public normalisation gives it, or a fresh one, 0 and 1. Hidden layers begin as those of
    ``public``, or fresh. None of the victim's own values survives elsewhere.

    Args:
        architecture: any model of the victim's form; its values are not used.
        seen: by path, see :func:`~holdfast.shielding.theft.view`.
        images: the attacker's own, without labels, (batch, *sample).
        public: the published model that the victim may have been made from; layers of other shapes are left out.

    Raises:
        InvalidConfig: a parameter that the architecture does not know how to draw afresh, or a seen layer that is no
            module of it.
    """
    made = fresh(architecture, seed)
    known: dict[str, Folded] = {}
    if public is not None:
        _adopt(made, public)
        known = folded(public, images[:1])
        seen = {name: recognised(layer, known.get(name)) for name, layer in seen.items()}
    pairs = norms_after(made, images[:1])
    for name, layer in seen.items():
        _show(made, name, layer, known.get(name))
    guessed = {name for name, layer in seen.items() if layer.scale is None}
    _normalise(made, {name: norm for name, norm in pairs.items() if name in guessed}, images)
    for name in seen.keys() & pairs.keys():
        _put(made, pairs[name], nn.Identity())
    return made.eval()


def recognised(seen: Seen, known: Folded | None) -> Seen:
    """Return a layer with its scale and bias where its codes are what the public weights round to, else as it is."""
    if known is None or known.weight.shape != seen.codes.shape or seen.scale is not None:
        return seen
    codes, weight = seen.codes.flatten(1).double(), known.weight.flatten(1).double()
    least = (weight.abs() / (codes.abs() + _HALF)).amax(1)  # a smaller scale would round some weight further up
    most = torch.where(codes == 0, math.inf, weight * codes.sign() / (codes.abs() - _HALF)).amin(1)
    if bool((least <= most).all()) and bool(most.isfinite().all()):
        return Seen(seen.codes, ((least + most) / 2).float(), known.bias)
    return seen


def _normalise(made: nn.Module, pairs: dict[str, str], images: Tensor) -> None:
    """Fold normalisations, with the statistics of ``images``, into the scales and biases before them.

    Their affine parts are those of the public model, or the identity. Codes have the sign of a negative gain in them.
    """
    norms = {name: made.get_submodule(norm) for name, norm in pairs.items()}
    if not norms or len(images) < 2:
        return
    made.eval()
    for norm in norms.values():
        norm.reset_running_stats()  # type: ignore[operator]
        norm.train()
        norm.momentum = None  # type: ignore[assignment]  # plain averages
        if isinstance(norm.weight, Tensor):
            norm.weight.data.abs_().clamp_(min=1e-3)
    with torch.no_grad():
        made(images)
        for name, norm in norms.items():
            _absorb(made.get_submodule(name), norm)


def _absorb(layer: nn.Module, norm: nn.Module) -> None:
    """Put what ``norm`` does into the scale and bias of ``layer``."""
    if not isinstance(layer, ScaledCodes) or not isinstance(norm, nn.modules.batchnorm._BatchNorm):
        raise InvalidConfig("only a normalisation after codes can be folded into them")
    if norm.running_var is None or norm.running_mean is None:
        raise InvalidConfig("a batch normalisation without running statistics cannot be folded")
    gain = (norm.running_var + norm.eps).rsqrt() * (1.0 if norm.weight is None else norm.weight)
    layer.log_scale.add_(gain.log())
    layer.bias.copy_((layer.bias - norm.running_mean) * gain + (0.0 if norm.bias is None else norm.bias))


def fresh(architecture: nn.Module, seed: Seed) -> nn.Module:
    """Return a copy of ``architecture`` with every parameter drawn again.

    Raises:
        InvalidConfig: a parameter whose module has no ``reset_parameters``: it would carry the victim's values over.
    """
    made = copy.deepcopy(architecture)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed.words()[1] >> 1)
        for name, part in made.named_modules():
            if hasattr(part, "reset_parameters"):
                part.reset_parameters()
            elif any(True for _ in part.parameters(recurse=False)):
                raise InvalidConfig(
                    f"{name or 'the model'} ({type(part).__name__}) cannot draw its parameters afresh",
                    hint="give it a reset_parameters()",
                )
    return made


def _adopt(made: nn.Module, public: nn.Module) -> None:
    own = made.state_dict()
    shared = {
        name: value for name, value in public.state_dict().items() if name in own and own[name].shape == value.shape
    }
    made.load_state_dict(shared, strict=False)


def _show(made: nn.Module, name: str, seen: Seen, known: Folded | None) -> None:
    try:
        layer = made.get_submodule(name)
    except AttributeError:
        layer = None
    if not isinstance(layer, _Layer) or layer.weight.shape != seen.codes.shape:
        raise InvalidConfig(f"the architecture has no convolution or linear layer {name!r} of the shape that is seen")
    scale, bias = _starting(seen, known)
    _put(made, name, ScaledCodes(layer, seen, scale, bias))


def _starting(seen: Seen, known: Folded | None) -> tuple[Tensor, Tensor]:
    guess = zero_data_scale(seen.codes)
    bias = torch.zeros_like(guess)
    if known is not None and known.weight.shape == seen.codes.shape:
        fit = fitted_scale(seen.codes, known.weight)
        guess, bias = torch.where(fit > 0, fit, guess), known.bias
    return guess if seen.scale is None else seen.scale, bias if seen.bias is None else seen.bias


def _put(root: nn.Module, path: str, part: nn.Module) -> None:
    parent, _, child = path.rpartition(".")
    setattr(root.get_submodule(parent), child, part)
