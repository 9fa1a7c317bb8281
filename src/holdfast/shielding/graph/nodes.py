"""The modules of an integer model as JSON, and built again from it: weights that do not keep a stated bound refuse."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.errors import InvalidConfig, UnreadableArtifact
from holdfast.numerics.formats import Encoded
from holdfast.shielding.graph.leaves import GroupedConvolution, Lookup, Product, Softmax
from holdfast.shielding.integer import IntegerLayer, integer_layer
from holdfast.shielding.product import Geometry

_MOST = 2**40  # of a size that a file may claim


def describe_module(module: nn.Module) -> dict[str, Any]:
    """Return everything about a module but its tensors.

    Raises:
        InvalidConfig: no module of integer models.
    """
    if isinstance(module, IntegerLayer):
        own = _linear(module) | {"sample_shape": list(module.sample_shape)}
        return {"kind": "integer", **own}
    if isinstance(module, GroupedConvolution):
        return {"kind": "grouped", **_linear(module), "groups": module.groups}
    if isinstance(module, Product):
        return {"kind": "product", "inner": module.inner, "bound": module.bound}
    if isinstance(module, Softmax):
        return {"kind": "softmax", "dim": module.dim}
    if isinstance(module, Lookup):
        return {"kind": "lookup"}
    raise InvalidConfig(f"an integer model holds no {type(module).__name__}")


def _linear(module: IntegerLayer | GroupedConvolution) -> dict[str, Any]:
    return {
        "geometry": module.geometry.to_json(),
        "bias": module.bias is not None,
        "top_code": module.top_code,
        "bound": module.bound,
    }


def build_module(path: str, value: Any, tensors: Mapping[str, Tensor], table: Tensor | None) -> nn.Module:
    """Return the module that :func:`describe_module` described; scales, biases and tables are still to be filled in.

    Args:
        path: of the module.
        value: the description.
        tensors: what is stored, by name; the bound of ``PATH.codes`` is proved here.
        table: what softmax looks its weights up in, where the model has one.

    Raises:
        UnreadableArtifact: a malformed description, codes of another shape, or a stated bound that is not the proved
            one.
    """
    kind = value.get("kind") if isinstance(value, dict) else None
    if not isinstance(kind, str) or kind not in _BUILDERS or value.keys() != {"kind", *_BUILDERS[kind][0]}:
        raise UnreadableArtifact(f"node {path!r} is described by other fields")
    try:
        module: nn.Module = _BUILDERS[kind][1](path, value, tensors, table)
    except InvalidConfig as error:
        raise UnreadableArtifact(f"node {path!r} cannot be: {error}") from error
    if "bound" in value and value["bound"] != module.bound:
        raise UnreadableArtifact(
            f"node {path!r} states the accumulator bound {value['bound']!r}, but its weights prove {module.bound}",
            hint="the folder was changed after export: export again, or restore a copy",
        )
    return module


def _whole(value: Any, what: str, *, least: int = 1, most: int = _MOST) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise InvalidConfig(f"{what} is {value!r}")
    return value


def _codes(path: str, tensors: Mapping[str, Tensor], shape: tuple[int, ...]) -> Encoded:
    codes = tensors.get(f"{path}.codes")
    if codes is None or codes.dtype != torch.int8 or tuple(codes.shape) != shape:
        raise InvalidConfig(f"{path}.codes are no int8 of shape {list(shape)}")
    return Encoded(codes, {"scale": torch.ones(1)})


def _bias(value: Mapping[str, Any], outputs: int) -> Tensor | None:
    if not isinstance(value["bias"], bool):
        raise InvalidConfig(f"bias is {value['bias']!r}")
    return torch.zeros(outputs) if value["bias"] else None


def _integer(path: str, value: dict[str, Any], tensors: Mapping[str, Tensor], _: Tensor | None) -> nn.Module:
    geometry, sides = Geometry.from_json(value["geometry"]), value["sample_shape"]
    if not isinstance(sides, list):
        raise InvalidConfig(f"sample_shape is {sides!r}")
    shape = tuple(_whole(side, "a side of sample_shape") for side in sides)
    geometry.output_shape(shape)
    encoded, top = _codes(path, tensors, geometry.weight_shape), _whole(value["top_code"], "top_code")
    bias = _bias(value, geometry.out_channels)
    return integer_layer(path, geometry, encoded, bias, peak=1.0, sample_shape=shape, top_code=top)


def _grouped(path: str, value: dict[str, Any], tensors: Mapping[str, Tensor], _: Tensor | None) -> nn.Module:
    geometry, groups = Geometry.from_json(value["geometry"]), _whole(value["groups"], "groups", least=2)
    if geometry.kind != "conv2d":
        raise InvalidConfig("only convolutions have groups")
    outputs = groups * geometry.out_channels
    encoded = _codes(path, tensors, (outputs, *geometry.weight_shape[1:]))
    top = _whole(value["top_code"], "top_code", most=127)
    return GroupedConvolution(path, geometry, groups, encoded, 1.0, _bias(value, outputs), top)


def _product(path: str, value: dict[str, Any], _: Mapping[str, Tensor], __: Tensor | None) -> nn.Module:
    return Product(path, (1.0, 1.0), _whole(value["inner"], "inner"))


def _softmax(path: str, value: dict[str, Any], _: Mapping[str, Tensor], table: Tensor | None) -> nn.Module:
    if table is None:
        raise InvalidConfig("the model has no table for it")
    return Softmax(_whole(value["dim"], "dim", least=-8, most=8), table)


def _lookup(path: str, value: dict[str, Any], _: Mapping[str, Tensor], __: Tensor | None) -> nn.Module:
    return Lookup(torch.zeros_like, 1.0)


_LINEAR = ("geometry", "bias", "top_code", "bound")
_BUILDERS: dict[str, tuple[tuple[str, ...], Callable[..., Any]]] = {
    "integer": ((*_LINEAR, "sample_shape"), _integer),
    "grouped": ((*_LINEAR, "groups"), _grouped),
    "product": (("inner", "bound"), _product),
    "softmax": (("dim",), _softmax),
    "lookup": ((), _lookup),
}
