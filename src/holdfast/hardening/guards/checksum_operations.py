"""Which operation gets which checksum, and how a layer computes with weights that were given back to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from holdfast.errors import IntegrityError, UnsupportedFormat
from holdfast.hardening.guards.checksum_conv import ConvCheck, is_checkable
from holdfast.hardening.guards.checksum_linear import LinearCheck, wrong_columns
from holdfast.hardening.guards.checksum_operands import as_factor, first_of, holding, multiplied
from holdfast.hardening.guards.checksum_product import ATTENTION, PRODUCTS, AttentionCheck, ProductCheck
from holdfast.hardening.guards.checksum_rounding import Rounding
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


class LayerCheck:
    """The check of a layer with weights: linear, or a convolution.

    Attributes:
        sums: of the weights as they are stored, which prove and restore them.
        inner: the check of products in the dtype of the stored weights.
    """

    def __init__(self, layer: nn.Module, site: str, false_alarms: float, quick: float = 0.0) -> None:
        """Take the sums of ``layer`` as it is now; ``quick`` is for linear layers and the dtype of its weights."""
        self._site, self._false_alarms = site, false_alarms
        weight, bias = weight_and_bias(layer)
        self._dtype = weight.dtype
        self.sums = Sums.of(weight, bias, _groups(layer))
        rounding = _rounding(layer, weight)
        self.inner = _inner(layer, self.sums, (weight, bias), rounding, false_alarms, quick)
        self._inner = {rounding: self.inner}

    def intact(self) -> bool:
        """Say whether all sums still are what was computed."""
        return self.sums.intact() and all(inner.sums.intact() for inner in self._inner.values())

    def wrong(self, operands: Operands, output: Tensor) -> Tensor:
        """Return the rows of ``output`` that the layer's input does not explain.

        Raises:
            IntegrityError: the first product of its dtype, and the weights are no longer those that were summed.
            UnsupportedFormat: the weights overflow in the dtype of the product.
        """
        with multiplied(operands, output) as taken:
            return self._of(operands.call, output).wrong(first_of(taken), output)

    def flags(self, operands: Operands, output: Tensor) -> Tensor | None:
        """Return 1 for every wrong row of a linear layer, int8, without waiting; None where that cannot be had."""
        if not isinstance(operands.call, nn.Linear):
            return None
        with multiplied(operands, output) as taken:
            inner = self._of(operands.call, output)
            return inner.flags(first_of(taken), output) if isinstance(inner, LinearCheck) else None

    def located(self, operands: Operands, output: Tensor, rows: Tensor, false_alarms: float) -> Located | None:
        """Return where a linear layer went wrong, from its column checksums; None for other layers."""
        layer = operands.call
        if not isinstance(layer, nn.Linear):
            return None
        weight, bias = weight_and_bias(layer)
        with multiplied(operands, output) as taken:
            terms = as_factor(weight, output.dtype), as_factor(bias, output.dtype)
            columns = wrong_columns(first_of(taken), output, *terms, false_alarms)
        if len(columns):
            return Located("output", tuple((row, column) for row in rows.tolist() for column in columns.tolist()))
        restored = self.sums.restored(weight, bias)
        return None if restored is None else Located("weight", restored.places)

    def _of(self, layer: Any, output: Tensor) -> LinearCheck | ConvCheck:
        """Return the check of products that are rounded as this output is, made at the first of them."""
        rounding = _rounding(layer, output)
        if rounding not in self._inner:
            weight, bias = (as_factor(item, output.dtype) for item in self._proven(layer))
            if not weight.isfinite().all():
                raise UnsupportedFormat(
                    f"the weights of {self._site} overflow in {output.dtype}", hint="autocast to torch.bfloat16"
                )
            sums = Sums.of(weight, bias, _groups(layer))
            self._inner[rounding] = _inner(layer, sums, (weight, bias), rounding, self._false_alarms)
        return self._inner[rounding]

    def _proven(self, layer: nn.Module) -> tuple[Tensor, Tensor | None]:
        """Return the weights that were summed, also where those in memory are no longer these, or of a wider dtype."""
        weight, bias = weight_and_bias(layer)
        weight, bias = weight.to(self._dtype), None if bias is None else bias.to(self._dtype)
        if self.sums.stand_for(weight, bias):
            return weight, bias
        if (restored := self.sums.restored(weight, bias)) is None:
            raise wrong_weights(self._site)
        return restored.weight, restored.bias

    def rows(self, output: Tensor) -> int:
        """Return the number of rows that ``output`` has."""
        if isinstance(self.inner, LinearCheck):
            return output.numel() // output.shape[-1]
        return len(output) * (output.shape[2] if output.dim() == 4 else 1)

    def with_restored_weights(self, operands: Operands) -> Tensor | None:
        """Return what the layer computes with its weights as they were, or None where these cannot be had."""
        layer = operands.call
        if not isinstance(layer, nn.Module) or (restored := self.sums.restored(*weight_and_bias(layer))) is None:
            return None
        with holding(layer, restored.weight, restored.bias):
            found: Tensor = operands.again()
        return found


def _groups(layer: nn.Module) -> int:
    return layer.groups if isinstance(layer, nn.Conv1d | nn.Conv2d) else 1


def _rounding(layer: nn.Module, product: Tensor) -> Rounding:
    return Rounding.of(product, convolution=not isinstance(layer, nn.Linear))


def _inner(
    layer: nn.Module, sums: Sums, terms: tuple[Tensor, Tensor | None], rounding: Rounding, false_alarms: float,
    quick: float = 0.0,
) -> LinearCheck | ConvCheck:  # fmt: skip
    """Return the check of products of ``terms``, the weights and bias of ``layer`` in the dtype of the product."""
    if isinstance(layer, nn.Linear):
        return LinearCheck(sums, *terms, false_alarms, quick, rounding)
    return ConvCheck(layer, sums, false_alarms, terms, rounding)


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
        if name != ATTENTION and name not in PRODUCTS:
            raise UnsupportedFormat(f"{name} has no checksum", hint=f"products do: {', '.join(sorted(PRODUCTS))}")
        with multiplied(operands, output) as taken:
            if name == ATTENTION:
                query, key, value, options = _attention(taken.args, dict(taken.kwargs))
                return AttentionCheck(self.false_alarms).wrong(query, key, value, output, options)
            left, right = _factors(taken)
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
    given = [*operands.args, *(operands.kwargs[name] for name in ("input", "other", "mat2") if name in operands.kwargs)]
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
    check = LayerCheck(call, site, false_alarms, quick)
    if weights and check.sums.weights != weights:
        raise wrong_weights(site)
    return check


def wrong_weights(site: str) -> IntegrityError:
    """Return what is said of weights that never were those that were summed, or cannot be brought back to them."""
    return IntegrityError(
        f"the weights of {site} are not those it was hardened with", hint="harden again after changing a model"
    )


def changed_elements(one: Tensor, other: Tensor) -> Tensor:
    """Return how many elements of each sample differ in any bit, int64, shape (batch,)."""
    differ = one.detach().ne(other.detach()) | (one.isnan() ^ other.isnan())
    return differ.reshape(len(one), -1).sum(1)


def per_sample(rows: Tensor, output: Tensor, all_rows: int) -> Tensor:
    """Return how many of ``rows`` belong to each sample of ``output``, int64, shape (batch,)."""
    each = max(1, all_rows // max(1, len(output)))
    return torch.bincount(rows // each, minlength=len(output))[: len(output)]
