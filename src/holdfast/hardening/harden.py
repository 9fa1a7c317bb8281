"""Hardening: a new model that carries guards, with the step recorded in its lineage."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from torch import nn

from holdfast._registry import Registry
from holdfast.data import Dataset
from holdfast.errors import InvalidConfig
from holdfast.evidence.lineage import Step
from holdfast.models import attach_guard, card, manifest_of
from holdfast.models.guard import AnyGuard


@runtime_checkable
class Hardening(Protocol):
    """A way to protect a model, calibrated and ready: a frozen dataclass that says which guards go where."""

    def guards(self, model: nn.Module) -> Sequence[AnyGuard]:
        """Return the guards for ``model``."""
        ...

    def describe(self) -> dict[str, Any]:
        """Return the method's name and parameters, as the lineage keeps them; ``profile`` is the digest of its data."""
        ...


@runtime_checkable
class Method(Protocol):
    """What a specification such as ``range-restriction:slack=1.3`` names: a frozen dataclass of parameters."""

    def calibrated(self, model: nn.Module, data: Dataset | None) -> Hardening:
        """Return the hardening of ``model``, with what had to be learnt from clean ``data``.

        Raises:
            InvalidConfig: the method needs data, and there is none.
        """
        ...


methods: Registry[Method] = Registry("hardening", "holdfast.hardenings")


def harden(model: nn.Module, *hardenings: Hardening) -> nn.Module:
    """Return a hardened copy of ``model``, whose sites keep their names and populations; the argument is unchanged.

    Several hardenings compose: at one place their guards run in the order given. Each adds a step to the lineage.

    Raises:
        DigestMismatch: bounds that were learnt from another model.
        NoSuchSite: a hardening guards a place that the model does not have.
        InvalidConfig: no hardening, or parameters out of range.
    """
    if not hardenings:
        raise InvalidConfig("there is nothing to harden with", hint="pass for example a RangeRestriction")
    for hardening in hardenings:
        if not isinstance(hardening, Hardening) or isinstance(hardening, type):
            hint = "for example RangeRestriction(holdfast.profile(model, data, at='activations:**'))"
            raise InvalidConfig(f"{hardening!r} is no calibrated hardening", hint=hint)
    installed = [(hardening, hardening.guards(model)) for hardening in hardenings]
    hardened = copy.deepcopy(model)
    for hardening, found in installed:
        described, inputs = hardening.describe(), {"model": manifest_of(hardened).digest}
        for guard in found:
            if (prepare := getattr(guard, "prepare", None)) is not None:  # codes within the weights are written once
                prepare(hardened)
            attach_guard(hardened, guard)
        if data := described.get("profile"):
            inputs["data"] = data
        card(hardened).lineage.append(Step("harden", described, inputs))
    return hardened
