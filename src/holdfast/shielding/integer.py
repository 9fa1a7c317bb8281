"""The plaintext int8 model: the reference that every shielded session equals bit for bit.

Convolutions and linear layers become three steps. *Encode* (trusted): activations to int8 codes with a static scale.
*Accumulate* (may be offloaded): an exact integer product. *Epilogue* (trusted): scale and bias in float32. Everything
else in the model stays the float code it was.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.data import Dataset
from holdfast.errors import InvalidConfig
from holdfast.evidence.lineage import Step
from holdfast.models import Lens, card, manifest_of
from holdfast.models.subject import require_open
from holdfast.numerics.formats import Encoded
from holdfast.numerics.formats.fixed_point import FixedPoint
from holdfast.shielding.product import CODE_MAX, Geometry, integer_product

_BATCH = 64
_INT8 = FixedPoint(bits=8)

Calibration = Tensor | Dataset | Iterable[Tensor]


class IntegerLayer(nn.Module):
    """A linear map with int8 weights and activations and an exact int32 accumulator.

    Attributes:
        codes: int8 weights, shape ``geometry.weight_shape``.
        weight_scale: float32, shape (out,).
        activation_scale: float32, shape (): the value of one activation code.
        bound: the largest accumulator magnitude, proved below 2**31.
        sample_shape: the shape of one input sample seen in calibration.
        top_code: activation codes are -top_code .. top_code; :meth:`encode` enforces it.
    """

    codes: Tensor
    weight_scale: Tensor
    activation_scale: Tensor

    def __init__(
        self,
        name: str,
        geometry: Geometry,
        encoded: Encoded,
        activation_scale: float,
        bias: Tensor | None,
        sample_shape: tuple[int, ...],
        top_code: int = CODE_MAX,
    ) -> None:
        super().__init__()
        self.geometry, self.sample_shape, self.top_code = geometry, sample_shape, require_top_code(top_code)
        self.bound = accumulator_bound(encoded.codes, top_code, layer=name)
        scale = encoded.qparams["scale"].reshape(-1).expand(geometry.out_channels)
        self.register_buffer("codes", encoded.codes.contiguous())
        self.register_buffer("weight_scale", scale.float().contiguous())
        self.register_buffer("activation_scale", torch.tensor(activation_scale, dtype=torch.float32))
        self.bias = None if bias is None else nn.Parameter(bias.detach().float().clone(), requires_grad=False)

    @property
    def weight(self) -> Tensor:
        """The float32 weights that the codes stand for, (out, ...); some models ask layers for their dtype."""
        return self.codes.float() * self.weight_scale.view(-1, *[1] * (self.codes.dim() - 1))

    def encode(self, x: Tensor) -> Tensor:
        """Return the int8 codes of float ``x``; int8 has no NaN, so NaN becomes 0, and infinities saturate."""
        return nearest_codes(x, self.activation_scale, self.top_code).to(torch.int8).contiguous()

    def accumulate(self, codes: Tensor) -> Tensor:
        """Return the exact int32 product of int8 ``codes``, shape (batch, *sample), with the weights."""
        return integer_product(codes, self.codes, self.geometry)

    def epilogue(self, accumulators: Tensor) -> Tensor:
        """Return the float32 output of int32 ``accumulators``, shape (batch, *output)."""
        shape = (-1, 1, 1) if self.geometry.kind == "conv2d" else (-1,)
        out = accumulators.float() * (self.weight_scale * self.activation_scale).view(shape)
        return out if self.bias is None else out + self.bias.view(shape)

    def forward(self, x: Tensor) -> Tensor:
        """Return encode, accumulate, epilogue of ``x`` (batch, *sample)."""
        return self.epilogue(self.accumulate(self.encode(x)))

    def extra_repr(self) -> str:
        """Describe the layer in ``print(model)``."""
        sizes = f"{self.geometry.in_channels}, {self.geometry.out_channels}"
        return f"{sizes}, bound={self.bound}, top_code={self.top_code}"


class Int8Conv2d(IntegerLayer):
    """An ungrouped, zero-padded 2-d convolution over int8."""


class Int8Linear(IntegerLayer):
    """A linear layer over int8; any number of leading dimensions."""


def nearest_codes(x: Tensor, scale: Tensor, top_code: int) -> Tensor:
    """Return ``x / scale`` rounded to whole numbers within ``top_code``, as float32; NaN becomes 0."""
    steps = torch.nan_to_num(x.float() / scale, nan=0.0, posinf=top_code, neginf=-top_code)
    return steps.round_().clamp_(-top_code, top_code)


def require_top_code(top_code: int) -> int:
    """Return ``top_code``.

    Raises:
        InvalidConfig: it is not in 1..127.
    """
    if not 1 <= top_code <= CODE_MAX:
        raise InvalidConfig(f"the top activation code is 1 .. {CODE_MAX}, not {top_code}")
    return top_code


def accumulator_bound(codes: Tensor, top_code: int, *, layer: str) -> int:
    """Return the largest accumulator that codes within ``top_code`` can make, proved below 2**31.

    An accumulator is a sum of weight times activation, so its magnitude is at most ``top_code`` times the sum of the
    magnitudes of one output's weights. Every partial sum obeys the same bound, in any order of summation.

    Args:
        codes: int8 weights, shape (out, ...).

    Raises:
        InvalidConfig: an accumulator could overflow int32, so a residue would not name one integer.
    """
    rows = codes.flatten(1).long().abs().sum(1)
    bound = top_code * int(rows.max()) if rows.numel() else 0
    if bound >= 2**31:
        raise InvalidConfig(
            f"layer {layer!r} sums {codes[0].numel()} products and could overflow int32",
            hint="split the layer, or export the model with a lower top code (graph.export, --top-code)",
        )
    return bound


def int8_model(model: nn.Module, calibration: Calibration) -> nn.Module:
    """Return a copy of ``model`` whose convolutions and linear layers compute in exact integers.

    The modules stay where they are, with their hooks, taps and guards, and what lies between the layers stays float
    code that may branch as it likes. :func:`~holdfast.shielding.graph.export` gives up the modules for a graph in which
    nothing depends on the batch or on the number of threads.

    Weights stored as symmetric fixed-point codes keep those codes; float weights are encoded per channel. Activation
    scales are static: the largest magnitude seen in ``calibration`` is code 127. Grouped convolutions, other padding
    than zeros, subclasses with a forward of their own, and layers that calibration never reaches stay as they are.

    Args:
        model: any module; it is left alone.
        calibration: a Dataset, one batch (batch, *sample), or an iterable of such batches.

    Raises:
        InvalidConfig: no layer qualifies, calibration is empty or not finite, an accumulator could overflow, or weights
            are of another precision than float32.
    """
    require_open(model)
    _require_float32(model)
    result = copy.deepcopy(model).eval()
    _leave_fast_path(result)
    layers = {name: layer for name, layer in result.named_modules() if geometry_of(layer) is not None}
    seen = _calibrate(result, layers, batches_of(calibration))
    for name, (peak, shape) in seen.items():
        _replace(result, name, _integer_layer(result, name, peak, shape))
    if not seen:
        raise InvalidConfig("the model has no convolution or linear layer to offload", hint="see holdfast shield plan")
    inputs = {"model": manifest_of(model).digest}
    if isinstance(calibration, Dataset):
        inputs["data"] = calibration.digest
    made = {"format": "int8", "activations": "static-max", "layers": len(seen)}
    card(result).lineage.append(Step("quantize", made, inputs))
    return result


def _require_float32(model: nn.Module) -> None:
    for name, value in model.named_parameters():
        if value.is_floating_point() and value.dtype != torch.float32:
            found = str(value.dtype).removeprefix("torch.")
            raise InvalidConfig(
                f"integer layers stand between float32 ones, and {name} is {found}", hint="model.float()"
            )


def _leave_fast_path(model: nn.Module) -> None:
    """Have torch's transformer layers call their parts: its fused kernel would compute with float weights."""
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoderLayer):
            module.activation_relu_or_gelu = 0
        elif isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False


def geometry_of(layer: nn.Module) -> Geometry | None:
    """Return the geometry of a layer that can become an integer one, or None."""
    if type(layer) is nn.Linear:
        return Geometry(kind="linear", out_channels=layer.out_features, in_channels=layer.in_features)
    if type(layer) is not nn.Conv2d or layer.groups != 1 or layer.padding_mode != "zeros":
        return None
    return convolution_geometry(
        layer.weight.shape, layer.stride, layer._reversed_padding_repeated_twice, layer.dilation
    )


def convolution_geometry(
    weight: Iterable[int], stride: Iterable[int], padding: Iterable[int], dilation: Iterable[int]
) -> Geometry:
    """Return the geometry of a 2-d convolution with weights of shape ``weight`` (out, in, height, width).

    Args:
        weight, stride, dilation: down and to the right.
        padding: zeros at left, right, top, bottom.
    """
    out, taken, high, wide = (int(side) for side in weight)
    down, right = (int(side) for side in stride)
    dilated_down, dilated_right = (int(side) for side in dilation)
    left_pad, right_pad, top_pad, bottom_pad = (int(side) for side in padding)
    return Geometry(
        kind="conv2d",
        out_channels=out,
        in_channels=taken,
        kernel=(high, wide),
        stride=(down, right),
        dilation=(dilated_down, dilated_right),
        padding=(left_pad, right_pad, top_pad, bottom_pad),
    )


def batches_of(calibration: Calibration) -> Iterator[Tensor]:
    """Return calibration data as batches (batch, *sample)."""
    if isinstance(calibration, Tensor):
        return iter([calibration])
    if isinstance(calibration, Dataset):
        return (images for images, _ in calibration.batches(_BATCH))
    return iter(calibration)


def _calibrate(
    model: nn.Module, layers: dict[str, nn.Module], batches: Iterable[Tensor]
) -> dict[str, tuple[float, tuple[int, ...]]]:
    """Return for each layer that ran: the largest input magnitude and the shape of one input sample."""
    seen: dict[str, tuple[float, tuple[int, ...]]] = {}

    def watch(name: str) -> Any:
        def hook(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            peak = float(args[0].abs().max()) if args[0].numel() else 0.0
            seen[name] = max(peak, seen.get(name, (0.0, ()))[0]), tuple(args[0].shape[1:])

        return hook

    handles = [layer.register_forward_pre_hook(watch(name)) for name, layer in layers.items()]
    count = 0
    try:
        with torch.no_grad():
            for batch in batches:
                model(batch)
                count += len(batch)
    finally:
        for handle in handles:
            handle.remove()
    if not count:
        raise InvalidConfig("calibration holds no sample", hint="pass some dozens of representative inputs")
    for name, (peak, _) in seen.items():
        if not peak < torch.inf:
            raise InvalidConfig(f"layer {name!r} saw a value that is not finite in calibration")
    return seen


def _integer_layer(model: nn.Module, name: str, peak: float, shape: tuple[int, ...]) -> IntegerLayer:
    old = model.get_submodule(name)
    geometry = geometry_of(old)
    weight, bias = old.get_parameter("weight"), getattr(old, "bias", None)
    if geometry is None or (bias is not None and not isinstance(bias, Tensor)):
        raise InvalidConfig(f"layer {name!r} cannot compute in integers")
    lenses = card(model).lenses
    lens = lenses.pop(f"{name}.weight" if name else "weight", None)
    lenses.pop(f"{name}.bias" if name else "bias", None)
    return integer_layer(name, geometry, weight_codes(weight, lens), bias, peak=peak, sample_shape=shape)


def integer_layer(
    name: str,
    geometry: Geometry,
    encoded: Encoded,
    bias: Tensor | None,
    *,
    peak: float,
    sample_shape: tuple[int, ...],
    top_code: int = CODE_MAX,
) -> IntegerLayer:
    """Return the integer layer whose input magnitude ``peak``, seen in calibration, is code ``top_code``.

    Raises:
        InvalidConfig: an accumulator could overflow int32.
    """
    kind = Int8Conv2d if geometry.kind == "conv2d" else Int8Linear
    return kind(name, geometry, encoded, code_scale(peak, top_code), bias, sample_shape, top_code)


def code_scale(peak: float, top_code: int) -> float:
    """Return the value of one code such that ``peak`` is ``top_code``; an input that is always 0 gets scale 1."""
    return peak / top_code or 1.0


def weight_codes(weight: Tensor, lens: Lens | None = None) -> Encoded:
    """Return weights (out, ...) as int8 codes per output channel.

    Symmetric steps that a lens stores are kept; any other format is encoded again from its decoded values.
    """
    if lens is None:
        return _INT8.encode(weight)
    own = lens.format
    if not isinstance(own, FixedPoint) or not own.symmetric or own.bits > 8 or own.granularity in ("group", "tile"):
        return _INT8.encode(weight)
    steps = (lens.decoded().double() / lens.qparams["scale"].double()).round()
    return Encoded(steps.clamp(-128, 127).to(torch.int8), {"scale": lens.qparams["scale"]})


def _replace(model: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    old = model.get_submodule(name)
    layer._forward_hooks.update(old._forward_hooks)
    layer._forward_pre_hooks.update(old._forward_pre_hooks)
    layer.train(old.training)
    setattr(model.get_submodule(parent), child, layer)


def integer_layers(model: nn.Module) -> dict[str, IntegerLayer]:
    """Return the integer layers of ``model`` by path, in order."""
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, IntegerLayer)}
