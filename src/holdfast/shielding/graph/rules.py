"""Rules for convolutions, linear layers, products of activations and attention, and for batch normalisation in them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, fx

from holdfast.errors import InvalidConfig
from holdfast.shielding.graph.leaves import GroupedConvolution, Product, Softmax
from holdfast.shielding.graph.lowering import Lowering, Rules, optional, paired
from holdfast.shielding.graph.program import Ref
from holdfast.shielding.integer import code_scale, convolution_geometry, integer_layer, weight_codes
from holdfast.shielding.product import Geometry

rules = Rules()
_NORM = "aten._native_batch_norm_legit_no_training.default"


def foldable(lowering: Lowering) -> dict[str, fx.Node]:
    """Return convolutions and linear nodes whose output only a batch normalisation reads, with that node."""
    found: dict[str, fx.Node] = {}
    for node in lowering.captured.nodes():
        source = node.args[0] if str(node.target) == _NORM else None
        if isinstance(source, fx.Node) and len(source.users) == 1 and _is_linear(lowering, source):
            found[source.name] = node
    return found


def _is_linear(lowering: Lowering, node: fx.Node) -> bool:
    name = str(node.target)
    convolution = name.startswith("aten.conv2d.")
    flat = name == "aten.linear.default" and len(lowering.shape(node)) == 2
    return (convolution or flat) and lowering.constant(node.args[1]) is not None


def _affine(lowering: Lowering, norm: fx.Node) -> tuple[Tensor, Tensor]:
    """Return slope and offset, float64 (channels,), of a batch normalisation with fixed statistics."""
    weight, bias, mean, var = (lowering.constant(norm.args[place]) for place in (1, 2, 3, 4))
    slope = (var.double() + norm.args[6]).rsqrt() * (1.0 if weight is None else weight.double())
    return slope, (0.0 if bias is None else bias.double()) - mean.double() * slope


def _folded(lowering: Lowering, node: fx.Node, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Return weight and bias with the batch normalisation that follows, computed in float64."""
    norm = lowering.batch_norm.get(node.name)
    if norm is None:
        return weight, bias
    slope, offset = _affine(lowering, norm)
    wide = weight.double() * slope.view(-1, *(1 for _ in weight.shape[1:]))
    return wide.float(), (offset if bias is None else bias.double() * slope + offset).float()


@rules.lower(_NORM)
def batch_norm(lowering: Lowering, node: fx.Node) -> Any:
    """Fold into the linear node before it; where there is none, scale and shift each channel."""
    source: Any = node.args[0]
    if source.name in lowering.batch_norm:
        return (lowering.values[source.name],)
    sides = (-1, *(1 for _ in lowering.shape(source)[2:]))
    slope, offset = (part.float().view(sides) for part in _affine(lowering, node))
    for name, value in (("slope", slope), ("offset", offset)):
        lowering.constants[f"{node.name}__{name}"] = value
    slope_ref, offset_ref = Ref(f"{node.name}__slope"), Ref(f"{node.name}__offset")
    elements = lowering.seen.elements(source.name)
    return (lowering.call(node, "exact.scaled", lowering.value(source), slope_ref, offset_ref, elements=elements),)


def _linear(
    lowering: Lowering, node: fx.Node, x: fx.Node, weight: Tensor, bias: Tensor | None, source: Any, observed: int = 0
) -> Ref:
    """Append an integer linear layer with ``weight`` (out, in)."""
    weight, bias = _folded(lowering, node, weight, bias)
    geometry = Geometry(kind="linear", out_channels=weight.shape[0], in_channels=weight.shape[1])
    path = _weight_path(lowering, node, source, "linear")
    layer = integer_layer(
        path,
        geometry,
        weight_codes(weight, None if node.name in lowering.batch_norm else _lens(lowering, source)),
        bias,
        peak=lowering.peak(node, observed),
        sample_shape=lowering.shape(x)[1:],
        top_code=lowering.top_code,
    )
    return lowering.module(node, path, layer, lowering.value(x), operation="linear")


def _lens(lowering: Lowering, source: Any) -> Any:
    path = lowering.captured.parameters.get(source.name) if isinstance(source, fx.Node) else None
    return lowering.lenses.get(path or "")


def _weight_path(lowering: Lowering, node: fx.Node, source: Any, word: str) -> str:
    """Name a linear node after the module that owns its weight, unless another kind of module does."""
    owner = lowering.captured.parameters.get(source.name, "") if isinstance(source, fx.Node) else ""
    module, _, attribute = owner.rpartition(".")
    if owner and attribute == "weight" and module and not _is_embedding(lowering, module):
        return lowering.fresh(module)
    return lowering.path_for(node, attribute if attribute not in ("", "weight") else word)


def _is_embedding(lowering: Lowering, module: str) -> bool:
    return isinstance(lowering.captured.model.get_submodule(module), torch.nn.Embedding)


@rules.lower("aten.linear.default", observes=(0,))
def linear(lowering: Lowering, node: fx.Node) -> Any:
    """``x W^T + b`` with constant weights."""
    x: Any = node.args[0]
    weight, bias = lowering.constant(node.args[1]), lowering.constant(optional(node, 2, "bias", None))
    if weight is None:
        raise lowering.refuse(node, "has weights that depend on the input", "write it as a matrix product")
    return _linear(lowering, node, x, weight, bias, node.args[1])


@rules.lower("aten.addmm.default", observes=(1,))
def addmm(lowering: Lowering, node: fx.Node) -> Any:
    """``b + x W`` with constant weights, as GPT-2 writes its linear layers."""
    bias, weight = lowering.constant(node.args[0]), lowering.constant(node.args[2])
    if bias is None or weight is None or node.kwargs:
        raise lowering.refuse(node, "is no linear layer with constant weights", "write it as linear or matmul")
    x: Any = node.args[1]
    return _linear(lowering, node, x, weight.t().contiguous(), bias, None, observed=1)


@rules.lower("aten.matmul.default", "aten.mm.default", "aten.bmm.default", observes=(0, 1))
def matmul(lowering: Lowering, node: fx.Node) -> Any:
    """A product of two activations; with a constant matrix on the right, a linear layer."""
    left: Any
    right: Any
    left, right = node.args
    weight = lowering.constant(right)
    if isinstance(weight, Tensor) and weight.dim() == 2 and len(lowering.shape(left)) > 1:
        return _linear(lowering, node, left, weight.t().contiguous(), None, None)
    peaks = lowering.peak(node, 0), lowering.peak(node, 1)
    operands = lowering.value(left), lowering.value(right)
    return _product(lowering, node, operands, peaks, lowering.shape(left)[-1])


def _product(
    lowering: Lowering,
    node: fx.Node,
    operands: tuple[Any, Any],
    peaks: tuple[float, float],
    inner: int,
    part: str = "",
    elements: int | None = None,
) -> Ref:
    path = lowering.path_for(node, part or "product")
    leaf = Product(path, peaks, inner)
    return lowering.module(node, path, leaf, *operands, part=part, operation="product", elements=elements)


@rules.lower("aten.conv2d.default", "aten.conv2d.padding", observes=(0,))
def convolution(lowering: Lowering, node: fx.Node) -> Any:
    """A 2-d convolution with constant weights; grouped ones stay trusted."""
    x: Any = node.args[0]
    weight, bias = lowering.constant(node.args[1]), lowering.constant(optional(node, 2, "bias", None))
    if weight is None:
        raise lowering.refuse(node, "has weights that depend on the input", "make the weights constant")
    stride, dilation = paired(optional(node, 3, "stride", 1)), paired(optional(node, 5, "dilation", 1))
    padding = _padding(optional(node, 4, "padding", 0), weight.shape[2:], dilation)
    groups = int(optional(node, 6, "groups", 1))
    weight, bias = _folded(lowering, node, weight, bias)
    path = _weight_path(lowering, node, node.args[1], "conv2d")
    encoded = weight_codes(weight, None if node.name in lowering.batch_norm else _lens(lowering, node.args[1]))
    shape = (weight.shape[0] // groups, *weight.shape[1:])
    geometry, top = convolution_geometry(shape, stride, padding, dilation), lowering.top_code
    if groups == 1:
        peak, sample = lowering.peak(node, 0), lowering.shape(x)[1:]
        layer = integer_layer(path, geometry, encoded, bias, peak=peak, sample_shape=sample, top_code=top)
        return lowering.module(node, path, layer, lowering.value(x), operation="conv2d")
    grouped = GroupedConvolution(path, geometry, groups, encoded, code_scale(lowering.peak(node, 0), top), bias, top)
    word = "depthwise" if geometry.in_channels == 1 else "grouped-conv2d"
    return lowering.module(node, path, grouped, lowering.value(x), operation=word)


def _padding(given: Any, kernel: tuple[int, ...], dilation: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return zeros at left, right, top, bottom."""
    if given == "same":
        high, wide = (dilation[axis] * (kernel[axis] - 1) for axis in (0, 1))
        return (wide // 2, wide - wide // 2, high // 2, high - high // 2)
    high, wide = (0, 0) if given == "valid" else paired(given)
    return (wide, wide, high, high)


@rules.lower("aten.softmax.int", "aten._softmax.default", "aten._safe_softmax.default")
def softmax(lowering: Lowering, node: fx.Node) -> Any:
    """Softmax along one dimension."""
    dim: Any = node.args[1]
    return _softmax(lowering, node, lowering.value(node.args[0]), dim)


def _softmax(lowering: Lowering, node: fx.Node, x: Any, dim: int, part: str = "", elements: int | None = None) -> Ref:
    leaf = Softmax(dim, lowering.table)
    path = lowering.path_for(node, part or "softmax")
    return lowering.module(node, path, leaf, x, part=part, operation="softmax", elements=elements)


@rules.lower("aten.scaled_dot_product_attention.default", observes=(0, 1, 2))
def attention(lowering: Lowering, node: fx.Node) -> Any:
    """``softmax(Q K^T * scale + mask) V`` (Vaswani et al., 2017), step by step."""
    q: Any
    k: Any
    q, k, v = node.args[:3]
    (queries, width), keys = lowering.shape(q)[-2:], lowering.shape(k)[-2]
    if optional(node, 4, "dropout_p", 0.0):
        raise lowering.refuse(node, "drops out at random", "export the model in evaluation mode")
    many = lowering.shape(q)[-3] // lowering.shape(k)[-3] if node.kwargs.get("enable_gqa") else 1
    key, value = (_repeated(lowering, node, part, many, word) for part, word in ((k, "keys"), (v, "values")))
    turned = lowering.call(node, "aten.transpose.int", key, -2, -1, part="turned", moves=True)
    peaks, size = (lowering.peak(node, 0), lowering.peak(node, 1)), lowering.seen.elements(q.name) // width * keys
    scores = _product(lowering, node, (lowering.value(q), turned), peaks, width, "scores", size)
    scale = node.kwargs.get("scale")
    factor = 1.0 / math.sqrt(width) if scale is None else float(scale)  # type: ignore[arg-type]
    scores = lowering.call(node, "aten.mul.Tensor", scores, factor, part="scaled", elements=size)
    scores = _masked(lowering, node, scores, (queries, keys), size)
    weights = _softmax(lowering, node, scores, -1, "softmax", size)
    return _product(lowering, node, (weights, value), (1.0, lowering.peak(node, 2)), keys, "mixed")


def _repeated(lowering: Lowering, node: fx.Node, part: Any, many: int, word: str) -> Any:
    value = lowering.value(part)
    if many == 1:
        return value
    return lowering.call(node, "aten.repeat_interleave.self_int", value, many, -3, part=word, moves=True)


def _masked(lowering: Lowering, node: fx.Node, scores: Ref, sides: tuple[int, int], elements: int) -> Ref:
    """Apply the mask of an attention node: causal, boolean (True takes part) or added."""
    mask: Any = optional(node, 3, "attn_mask", None)
    if optional(node, 5, "is_causal", False):
        closed = Ref(f"{node.name}__future")
        lowering.constants[closed.name] = torch.ones(sides, dtype=torch.bool).triu(1)
    elif mask is None:
        return scores
    elif mask.meta["val"].dtype != torch.bool:
        mask = lowering.value(mask)
        return lowering.call(node, "aten.add.Tensor", scores, mask, part="masked", elements=elements)
    else:
        closed = lowering.call(node, "aten.logical_not.default", lowering.value(mask), part="closed", moves=True)
    call = "aten.masked_fill.Scalar"
    return lowering.call(node, call, scores, closed, -math.inf, part="masked", elements=elements)


def require_linear(lowering: Lowering) -> None:
    """Refuse a model in which nothing can be offloaded.

    Raises:
        InvalidConfig: no convolution and no linear layer.
    """
    if not any(step.operation in ("conv2d", "linear") for step in lowering.steps):
        raise InvalidConfig("the model has no convolution or linear layer to offload", hint="see holdfast shield plan")
