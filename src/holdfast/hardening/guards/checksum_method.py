"""Checksums as a hardening: which products get a guard, and what clean rows of linear layers look like."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.data import Dataset
from holdfast.errors import InvalidConfig, NoSuchSite
from holdfast.hardening.guards.checksum import Action, ChecksumGuard
from holdfast.hardening.guards.checksum_linear import LinearCheck
from holdfast.hardening.guards.checksum_operations import has_checksum
from holdfast.hardening.guards.checksum_rounding import FALSE_ALARMS
from holdfast.hardening.harden import methods
from holdfast.models import card, select
from holdfast.models.guard import without_guards
from holdfast.models.subject import evaluating

_SEEN = 64  # samples


@dataclass(frozen=True, slots=True, kw_only=True)
class Checksums:
    """Checksums at ``sites``.

    Attributes:
        sites: names of ``activations`` sites.
        action: what a guard does about a wrong row, see :class:`ChecksumGuard`.
        false_alarms: chance per row and pass.
        quick: site -> half the smallest threshold that clean rows had there; spares them a second look.
        data_digest: of the data that showed them.
    """

    sites: tuple[str, ...]
    action: Action = "correct"
    false_alarms: float = FALSE_ALARMS
    quick: Mapping[str, float] = field(default_factory=dict)
    data_digest: str = ""

    def guards(self, model: nn.Module) -> Sequence[ChecksumGuard]:
        """Return one guard per site, with the sums of the weights as they are now.

        Raises:
            NoSuchSite: a site is not in the model, or computes no product.
            InvalidConfig: an unknown action, or a chance outside (0, 1).
        """
        modules, result = dict(model.named_modules()), []
        for site in self.sites:
            if not has_checksum(model, site):
                raise NoSuchSite(f"{site} is no product that a checksum could check", hint="linear, conv, matmul, bmm")
            guard = ChecksumGuard(site, self.action, self.false_alarms, quick=self.quick.get(site, 0.0))
            if (layer := modules.get(site.partition("#")[0])) is not None:
                guard.learn(layer)
            result.append(guard)
        return result

    def describe(self) -> dict[str, Any]:
        """Return the parameters."""
        described = {"method": "checksum", "action": self.action, "false_alarms": self.false_alarms}
        return described | {"sites": len(self.sites), "profile": self.data_digest}


@methods.register("checksum")
@dataclass(frozen=True, slots=True, kw_only=True)
class ChecksumMethod:
    """Checksums at the products among the sites that ``at`` selects."""

    at: str = "activations:**"
    action: Action = "correct"
    false_alarms: float = FALSE_ALARMS

    def calibrated(self, model: nn.Module, data: Dataset | None) -> Checksums:
        """Return the hardening; ``data`` shows which sites compute, and what clean rows of linear layers look like.

        Raises:
            InvalidConfig: neither data nor a model that knows its input.
            NoSuchSite: nothing selected is a product.
        """
        found = select(model, self.at, example_of(model, data))
        names = tuple(site.name for site in found if site.kind == "activations" and has_checksum(model, site.name))
        if not names:
            raise NoSuchSite(f"{self.at} selects no product", hint="linear, conv, matmul, bmm and attention are")
        plain = Checksums(sites=names, action=self.action, false_alarms=self.false_alarms)
        if data is None:
            return plain
        images = data.batch(torch.arange(min(_SEEN, len(data))))[0]
        return replace(plain, quick=smallest_thresholds(model, plain, images), data_digest=data.digest)


def smallest_thresholds(model: nn.Module, checksums: Checksums, images: Tensor) -> dict[str, float]:
    """Return half the smallest threshold that each linear layer's rows have on clean ``images`` (batch, ...)."""
    found: dict[str, float] = {}

    def see(site: str, check: LinearCheck) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            found[site] = min(found.get(site, math.inf), float(check.thresholds(args[0], output).min()) / 2)

        return hook

    plain = torch.autocast(images.device.type, enabled=False)  # `quick` is one number, for the stored weights' dtype
    with ExitStack() as hooks, evaluating(model), torch.no_grad(), without_guards(model), plain:
        for guard in checksums.guards(model):
            layer = dict(model.named_modules()).get(guard.site)
            if layer is not None and isinstance(inner := guard.inner, LinearCheck):
                hooks.callback(layer.register_forward_hook(see(guard.site, inner)).remove)
        model(images)
    return found


def example_of(model: nn.Module, data: Dataset | None) -> Tensor:
    """Return one input sample: of the data, or zeros of the shape that the model is known to take.

    Raises:
        InvalidConfig: neither is there.
    """
    if data is not None:
        return data.example
    shape = card(model).input_shape
    if shape is None:
        raise InvalidConfig("which sites compute takes an example to find out", hint="pass calibration data")
    return torch.zeros(shape)
