"""Which operation gets which checksum, and how a layer computes with weights that were given back to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from holdfast.errors import IntegrityError, UnsupportedFormat
from holdfast.hardening.guards.checksum_conv import ConvCheck, is_checkable
from holdfast.hardening.guards.checksum_linear import LinearCheck, wrong_columns
from holdfast.hardening.guards.checksum_product import ATTENTION, PRODUCTS, AttentionCheck, ProductCheck
from holdfast.hardening.guards.checksum_sums import Sums, weight_and_bias
from holdfast.models.guard import Operands
from holdfast.models.tap import operation_name


def has_checksum(model: nn.Module, site: str) -> bool:
    """Say whether the operation at an ``activations`` site can be checked."""
    place = site.partition("#")[0]
    owner, functional, operation = place.rpartition("/")
    modules = dict(model.named_modules())
    if functional and owner in modules:
        return operation in PRODUCTS or operation == ATTENTION
    return isinstance(modules.get(place), nn.Linear) or is_checkable(modules.get(place, model))


@dataclass(frozen=True, slots=True)
class Located:
    """What was wrong with a linear layer.

    Attributes:
        what: ``output``, computed wrong, or ``weight``, changed since its sums were taken.
        places: (row, output) of wrong elements, or (output, input) of wrong weights; input K is the bias.
    """

    what: Literal["output", "weight"]
    places: tuple[tuple[int, int], ...]


@dataclass(slots=True)
class LayerCheck:
    """The check of a layer with weights: linear, or a convolution."""

    inner: LinearCheck | ConvCheck

    @classmethod
    def of(cls, layer: nn.Module, false_alarms: float, quick: float = 0.0) -> LayerCheck:
        """Return the check of ``layer`` with the weights that it has now; ``quick`` is for linear layers."""
        groups = layer.groups if isinstance(layer, nn.Conv1d | nn.Conv2d) else 1
        weight, bias = weight_and_bias(layer)
        sums = Sums.of(weight, bias, groups)
        if isinstance(layer, nn.Linear):
            return cls(LinearCheck(sums, weight, bias, false_alarms, quick))
        return cls(ConvCheck(layer, sums, false_alarms))

    @property
    def sums(self) -> Sums:
        """The checksums of the layer's weights."""
        return self.inner.sums

    def wrong(self, operands: Operands, output: Tensor) -> Tensor:
        """Return the rows of ``output`` that the layer's input does not explain."""
        return self.inner.wrong(input_of(operands), output)

    def located(self, operands: Operands, output: Tensor, rows: Tensor, false_alarms: float) -> Located | None:
        """Return where a linear layer went wrong, from its column checksums; None for other layers."""
        layer = operands.call
        if not isinstance(layer, nn.Linear):
            return None
        weight, bias = weight_and_bias(layer)
        columns = wrong_columns(input_of(operands), output, weight, bias, false_alarms)
        if len(columns):
            return Located("output", tuple((row, column) for row in rows.tolist() for column in columns.tolist()))
        restored = self.sums.restored(weight, bias)
        return None if restored is None else Located("weight", restored.places)

    def rows(self, output: Tensor) -> int:
        """Return the number of rows that ``output`` has."""
        if isinstance(self.inner, LinearCheck):
            return output.numel() // output.shape[-1]
        return len(output) * (output.shape[2] if output.dim() == 4 else 1)

    def with_restored_weights(self, operands: Operands) -> Tensor | None:
        """Return what the layer computes with its weights as they were, or None where these cannot be had."""
        layer = operands.call
        restored = self.sums.restored(*weight_and_bias(layer)) if isinstance(layer, nn.Module) else None
        if restored is None:
            return None
        given = input_of(operands)
        if isinstance(layer, nn.Conv1d | nn.Conv2d):
            convolved: Tensor = layer._conv_forward(given, restored.weight, restored.bias)
            return convolved
        return F.linear(given, restored.weight, restored.bias)


def input_of(operands: Operands) -> Tensor:
    """Return what the operation was called with first."""
    given: Tensor = operands.args[0] if operands.args else operands.kwargs["input"]
    return given


@dataclass(frozen=True, slots=True)
class FunctionCheck:
    """The check of a function of computed tensors."""

    false_alarms: float

    def wrong(self, operands: Operands, output: Tensor) -> Tensor:
        """Return the rows of ``output`` that its operands do not explain.

        Raises:
            UnsupportedFormat: no function with a checksum.
        """
        name = operation_name(operands.call)
        if name == ATTENTION:
            query, key, value, options = _attention(operands.args, dict(operands.kwargs))
            return AttentionCheck(self.false_alarms).wrong(query, key, value, output, options)
        if name not in PRODUCTS:
            raise UnsupportedFormat(f"{name} has no checksum", hint=f"products do: {', '.join(sorted(PRODUCTS))}")
        left, right = _factors(operands)
        return ProductCheck(self.false_alarms).wrong(left, right, output)

    def rows(self, output: Tensor) -> int:
        """Return the number of rows that ``output`` has."""
        return output.numel() // output.shape[-1]


_ATTENTION = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")


def _attention(args: Sequence[Any], options: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor, dict[str, Any]]:
    options |= dict(zip(_ATTENTION, args, strict=False))
    query, key, value = (options.pop(name) for name in _ATTENTION[:3])
    return query, key, value, options


def _factors(operands: Operands) -> tuple[Tensor, Tensor]:
    """Return both factors as matrices; a vector is a matrix of one column."""
    given = [*operands.args, *(operands.kwargs[name] for name in ("other", "mat2") if name in operands.kwargs)]
    left, right = given[:2]
    if operation_name(operands.call) == "rmatmul":
        left, right = right, left
    if left.dim() < 2 or right.dim() < 2:
        raise UnsupportedFormat("a product with a vector has no checksum", hint="leave it out with at=")
    return left, right


AnyCheck = LayerCheck | FunctionCheck


def check_of(call: Any, false_alarms: float, site: str, weights: str, quick: float) -> AnyCheck:
    """Return the check of an operation.

    Raises:
        IntegrityError: a layer whose weights do not have the digest ``weights``, where one is given.
    """
    if not isinstance(call, nn.Module):
        return FunctionCheck(false_alarms)
    check = LayerCheck.of(call, false_alarms, quick)
    if weights and check.sums.weights != weights:
        raise IntegrityError(
            f"the weights of {site} are not those it was hardened with", hint="harden again after changing a model"
        )
    return check


def changed_elements(one: Tensor, other: Tensor) -> Tensor:
    """Return how many elements of each sample differ in any bit, int64, shape (batch,)."""
    differ = one.detach().ne(other.detach()) | (one.isnan() ^ other.isnan())
    return differ.reshape(len(one), -1).sum(1)


def per_sample(rows: Tensor, output: Tensor, all_rows: int) -> Tensor:
    """Return how many of ``rows`` belong to each sample of ``output``, int64, shape (batch,)."""
    each = max(1, all_rows // max(1, len(output)))
    return torch.bincount(rows // each, minlength=len(output))[: len(output)]
