"""Number formats of accelerators, emulated in float32: the tags of HSPI (Zhang et al., ICML 2025, section 4).

A copy of a model whose ``Conv2d`` and ``Linear`` layers see weights, biases and inputs as the format holds them, and
compute with those in float32. What accumulates, and in which order, stays this machine's own: an emulated platform is
a number format, never a chip. Unlike the published code, whose quantisers live on as ``compat-...`` formats (see
:data:`PUBLISHED`):

- fp8-e4m3 ends at 448 as OCP's does, not at 480, and rounding up carries into the exponent;
- fp8-e3m4 holds weights in e3m4 too, and ends at 15.5 as ``ml_dtypes`` has it;
- a block of mxint8, bm8 or bl8 runs along the products of one sum, across channels, not along an image row;
- the shared bias of bm8 has the right sign; log8 and bl8 have a zero;
- the range of int8-dynamic includes zero;
- weights are rounded once, when the copy is made, not on every forward pass.
"""

from __future__ import annotations

import copy
import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from holdfast._registry import unknown
from holdfast.data import Dataset
from holdfast.errors import InvalidConfig, NoSuchSite, UnsupportedFormat
from holdfast.execution import Trace, describe_platform, predict
from holdfast.execution.run import one_thread
from holdfast.models import manifest_of
from holdfast.models.outputs import logits_of
from holdfast.numerics.formats import Format, formats

_LAYERS = (nn.Conv2d, nn.Linear)


@dataclass(frozen=True, slots=True, kw_only=True)
class EmulatedFormat:
    """What the layers of a model hold: a torch ``dtype`` for the whole net, or formats for each operand.

    A specification is one of :data:`holdfast.numerics.formats.formats`; an empty one leaves the operand alone.
    """

    name: str
    weight: str = ""
    bias: str = ""
    inputs: str = ""
    dtype: str = "float32"  # of the whole net; other than float32 goes without formats
    channels_last: bool = True  # blocks run across channels; False: along the last axis as stored, as published

    def __post_init__(self) -> None:
        if self.dtype not in ("float32", "float16", "bfloat16"):
            raise InvalidConfig(f"no net computes in {self.dtype} here", hint="float32, float16 or bfloat16")
        if self.dtype != "float32" and (self.weight or self.bias or self.inputs):
            raise InvalidConfig(f"{self.name}: formats round to float32, not to {self.dtype}")

    def apply(self, model: nn.Module, *, skip: Sequence[str] = ()) -> nn.Module:
        """Return a copy of ``model`` in evaluation mode that computes in this format and answers in float32.

        Rounding passes gradients through unchanged (straight-through, without a clipping mask), to inputs and to the
        rounded weights alike.

        Args:
            model: a float model; unchanged.
            skip: globs of layers that keep float32, such as ``lm_head``.

        Raises:
            InvalidConfig: the model has nothing to emulate, or ``nn.MultiheadAttention``, which computes past its
                layers.
            NoSuchSite: a glob in ``skip`` that matches nothing.
            UnsupportedFormat: a weight that the format cannot hold; the layer is named.
        """
        result = copy.deepcopy(model).eval()
        if self.weight or self.bias or self.inputs:
            for name, layer in _layers(result, skip):
                self._emulate(name, layer)
        return Emulation(result, getattr(torch, self.dtype))

    def _emulate(self, name: str, layer: nn.Conv2d | nn.Linear) -> None:
        try:
            with torch.no_grad():
                layer.weight.copy_(self._weights(layer))
                if layer.bias is not None and self.bias:
                    layer.bias.copy_(_rounded(layer.bias, formats.build(self.bias)))
        except UnsupportedFormat as error:
            raise UnsupportedFormat(f"{name}: {error}", hint=error.hint) from error
        if self.inputs:
            across = self.channels_last and isinstance(layer, nn.Conv2d)
            layer.register_forward_pre_hook(Rounding(formats.build(self.inputs), across_channels=across))

    def _weights(self, layer: nn.Conv2d | nn.Linear) -> Tensor:
        if not self.weight:
            return layer.weight
        chosen = formats.build(self.weight)
        if not (self.channels_last and isinstance(layer, nn.Conv2d)):
            return _rounded(layer.weight, chosen)
        return _rounded(layer.weight.permute(0, 2, 3, 1).contiguous(), chosen).permute(0, 3, 1, 2)


class Emulation(nn.Module):
    """Runs a model in ``dtype`` and returns float32; token inputs stay integers."""

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.model = model if dtype == torch.float32 else model.to(dtype)
        self._dtype = dtype

    def forward(self, inputs: Tensor) -> Tensor:
        output = self.model(inputs.to(self._dtype) if inputs.is_floating_point() else inputs)
        return logits_of(output).float()  # type: ignore[no-any-return]


class Rounding:
    """A forward pre-hook: the first input of a layer passes through a format, its gradient through nothing."""

    def __init__(self, format: Format, *, across_channels: bool) -> None:
        self.format, self.across_channels = format, across_channels

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the inputs with the first one rounded."""
        x, *rest = inputs
        if self.across_channels and x.dim() > 2:
            return straight_through(x.movedim(-3, -1).contiguous(), self.format).movedim(-1, -3).contiguous(), *rest
        return straight_through(x, self.format), *rest


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, format: Format) -> Tensor:
        return _rounded(x, format)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


def straight_through(x: Tensor, format: Format) -> Tensor:
    """Return float32 ``x`` as ``format`` holds it; the gradient is that of the identity (Bengio et al., 2013)."""
    return _StraightThrough.apply(x, format)  # type: ignore[no-untyped-call, no-any-return]


def _rounded(x: Tensor, format: Format) -> Tensor:
    return format.decode(format.encode(x.detach())).to(x.dtype)


def _layers(model: nn.Module, skip: Sequence[str]) -> Iterator[tuple[str, nn.Conv2d | nn.Linear]]:
    found, names = 0, [name for name, _ in model.named_modules()]
    for pattern in skip:
        if not fnmatch.filter(names, pattern):
            raise NoSuchSite(f"no layer is called {pattern!r}, to skip it", hint=f"the last one is {names[-1]}")
    for name, module in model.named_modules():
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in skip):
            continue
        if isinstance(module, nn.MultiheadAttention):
            raise InvalidConfig(
                f"{name} is torch's own attention, which computes past its layers: it cannot be emulated",
                hint="use an attention made of Linear layers, or skip it and what is in it",
            )
        if isinstance(module, _LAYERS):
            found += 1
            yield name, module
    if not found:
        raise InvalidConfig("the model has no Conv2d or Linear layer to emulate")


def emulated_trace(
    tag: str | EmulatedFormat, model: nn.Module, probes: Dataset, *, batch_size: int = 32, skip: Sequence[str] = ()
) -> Trace:
    """Trace ``model`` on ``probes`` in an emulated format; its platform says ``emulated`` and never a chip.

    ``skip`` is that of :meth:`EmulatedFormat.apply`.

    Raises:
        UnknownName: a tag that is not in :data:`EMULATED`.
    """
    if isinstance(tag, str) and tag not in EMULATED:
        raise unknown("emulated format", tag, EMULATED)
    chosen = EMULATED[tag] if isinstance(tag, str) else tag
    with one_thread():
        outputs = predict(chosen.apply(model, skip=skip), probes, batch_size=batch_size)
    platform = describe_platform().to_json() | {"setting": f"emulated {chosen.name}", "emulated": chosen.name}
    return Trace(outputs, probes.digest, manifest_of(model).digest, platform)


def _alike(name: str, spec: str, **others: str | bool) -> EmulatedFormat:
    """Return a format for every operand; ``others`` says what is different."""
    operands: dict[str, Any] = {"weight": spec, "bias": spec, "inputs": spec}
    return EmulatedFormat(name=name, **operands | others)


def _by_name(*items: EmulatedFormat) -> Mapping[str, EmulatedFormat]:
    return MappingProxyType({item.name: item for item in items})


_INT8 = "int8-dynamic"
# torch.float8_e4m3fn and OCP's E4M3: 448 is the greatest; accelerators saturate there
_E4M3 = "minifloat:exponent=4,mantissa=3,specials=nan,overflow=saturate"
_E3M4 = "minifloat:exponent=3,mantissa=4,specials=ieee,overflow=saturate"
_BLOCKS = "microscaling:element=e2m5,block=16,along=last"

EMULATED = _by_name(
    _alike("bypass", "fp32"),  # through every step, and changes nothing
    EmulatedFormat(name="fp32"),
    EmulatedFormat(name="fp16", dtype="float16"),
    EmulatedFormat(name="bf16", dtype="bfloat16"),
    _alike("int8-dynamic", _INT8),
    _alike("int8-dynamic-alone", _INT8, inputs=f"{_INT8}:granularity=channel"),  # each sample its own range
    _alike("fp8-e4m3", _E4M3),
    _alike("fp8-e3m4", _E3M4),
    _alike("mxint8", "mxint8", inputs="microscaling:element=int8,along=last"),
    _alike("bm8", "bm8", inputs=_BLOCKS),
    _alike("bl8", "bl8", inputs="logarithmic:block=16,along=last"),
    _alike("log8", "log8"),
)

PUBLISHED = _by_name(
    EmulatedFormat(name="fp32"),
    EmulatedFormat(name="fp16", dtype="float16"),
    EmulatedFormat(name="bf16", dtype="bfloat16"),
    _alike("int8-dynamic", "compat-int8-dynamic", channels_last=False),
    _alike("fp8-e4m3", "compat-fp8-e4m3", channels_last=False),
    _alike("fp8-e3m4", "compat-fp8-e4m3", inputs="compat-fp8-e3m4", channels_last=False),
    _alike("mxint8", "compat-mxint8", channels_last=False),
    _alike("bm8", "compat-bm8", inputs="compat-bm8:shape=group", channels_last=False),
    _alike("bl8", "compat-bl8", channels_last=False),
    _alike("log8", "compat-log8", channels_last=False),
)
"""The tags as HSPI's code computes them, defects included: what its published figures are compared with."""
