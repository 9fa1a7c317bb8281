"""INSECURE, for comparison: a model "protected" by hiding nothing but quantisation scales and biases.

TSQP's premise (IEEE S&P 2025) is that int8 codes without their scales are of no use. :func:`split` does as it says:
the codes go to the worker in the clear, and a few thousand numbers stay behind. The attack stands beside it, in
:mod:`holdfast.hazmat.scales_only_attack`: a guess from the codes alone is most of the model. Do not rely on it; keep
layers that are secret ``trusted``, or offload only what is public anyway (``private-adapters``).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast.errors import InvalidConfig
from holdfast.shielding.graph import IntegerModel
from holdfast.shielding.graph.leaves import GroupedConvolution
from holdfast.shielding.integer import IntegerLayer
from holdfast.shielding.theft.view import Seen


@dataclass(frozen=True, slots=True)
class ScalesOnly:
    """A model in two parts.

    Attributes:
        open: int8 codes by layer; what the worker holds.
        secret: float32 scales and biases by path; what stays in the trusted world.
        form: the graph with zeros in place of both.
    """

    open: Mapping[str, Tensor]
    secret: Mapping[str, Tensor]
    form: IntegerModel

    def seen(self) -> dict[str, Seen]:
        """Return the attacker's view."""
        return {name: Seen(codes) for name, codes in self.open.items()}

    def numbers(self) -> tuple[int, int]:
        """Return how many numbers are open, and how many secret."""
        return sum(part.numel() for part in self.open.values()), sum(part.numel() for part in self.secret.values())


def split(model: IntegerModel) -> ScalesOnly:
    """Part ``model`` into open codes and secret scales.

    Raises:
        InvalidConfig: it has no layer with codes.
    """
    form = copy.deepcopy(model)
    parts = {name: part for name, part in form.named_modules() if isinstance(part, IntegerLayer | GroupedConvolution)}
    if not parts:
        raise InvalidConfig("the model has no layer with codes", hint="make it with shielding.graph.export()")
    opened = {name: part.codes.clone() for name, part in parts.items()}
    places = {f"{name}.codes" for name in parts}
    kept = {name: value for name, value in form.state_dict(keep_vars=True).items() if name not in places}
    secret = {name: value.detach().clone() for name, value in kept.items()}
    with torch.no_grad():
        for value in (*kept.values(), *(part.codes for part in parts.values())):
            value.zero_()
    return ScalesOnly(opened, secret, form)


def join(parts: ScalesOnly) -> IntegerModel:
    """Return the model again, equal to the bit."""
    model = copy.deepcopy(parts.form)
    codes = {f"{name}.codes": value for name, value in parts.open.items()}
    model.load_state_dict({**parts.secret, **codes})
    return model
