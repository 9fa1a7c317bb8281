"""Hardening: a new model that carries guards, with the step recorded in its lineage."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from torch import nn

from holdfast.evidence.lineage import Step
from holdfast.models import Guard, attach_guard, card, manifest_of


@runtime_checkable
class Hardening(Protocol):
    """A way to protect a model: a frozen dataclass that says which guards go where."""

    def guards(self, model: nn.Module) -> Sequence[Guard]:
        """Return the guards for ``model``."""
        ...

    def describe(self) -> dict[str, Any]:
        """Return the method's name and parameters, as the lineage keeps them; ``profile`` is the digest of its data."""
        ...


def harden(model: nn.Module, method: Hardening) -> nn.Module:
    """Return a hardened copy of ``model``, whose sites keep their names and populations; the argument is unchanged.

    Raises:
        NoSuchSite: the method guards a place that the model does not have.
        InvalidConfig: the method's parameters are out of range.
    """
    installed = method.guards(model)
    hardened = copy.deepcopy(model)
    for guard in installed:
        attach_guard(hardened, guard)
    inputs, described = {"model": manifest_of(model).digest}, method.describe()
    if data := described.get("profile"):
        inputs["data"] = data
    card(hardened).lineage.append(Step("harden", described, inputs))
    return hardened
