"""Algorithm-based fault tolerance: products are checked by sums, wrong ones computed again, wrong weights given back.

Huang and Abraham, IEEE Transactions on Computers C-33 (1984), as used for inference by ALBERTA and others: a fault in
a product, or in the weights since they were summed, changes a checksum by more than rounding can. Thresholds are those
of :mod:`holdfast.hardening.guards.checksum_rounding`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from holdfast.data import Dataset
from holdfast.errors import IntegrityError, InvalidConfig, NoSuchSite
from holdfast.execution.run import evaluating
from holdfast.hardening.guards.checksum_conv import ConvCheck
from holdfast.hardening.guards.checksum_linear import LinearCheck
from holdfast.hardening.guards.checksum_operations import (
    AnyCheck,
    LayerCheck,
    Located,
    changed_elements,
    check_of,
    has_checksum,
    input_of,
    per_sample,
)
from holdfast.hardening.guards.checksum_rounding import FALSE_ALARMS, deviations
from holdfast.hardening.guards.checksum_sums import digest_of, weight_and_bias
from holdfast.hardening.harden import methods
from holdfast.models import card, select
from holdfast.models.guard import Operands, guards, without_guards

Action = Literal["correct", "detect", "refuse"]
_SEEN = 64  # samples


@dataclass(frozen=True, slots=True, eq=False)
class Summed:
    """A product that was checked while it was computed: the tensor, how often it had been written to, and its rows.

    Attributes:
        output: the very tensor; any other is to be read.
        version: of it, as torch counts writes.
        wrong: int8, shape (rows,).
    """

    output: Tensor
    version: int
    wrong: Tensor


@guards.register("checksum")
class ChecksumGuard:
    """Checks one product on every pass.

    Args:
        site: a linear layer, a convolution, or a product in a module's ``forward`` such as ``attn/matmul``.
        action: ``correct`` computes a wrong output again, with restored weights where those had changed; ``detect``
            counts alarms; ``refuse`` raises :class:`IntegrityError`.
        false_alarms: chance per row that rounding alone raises an alarm.
        weights: BLAKE3 (hex) of the weights that it was made for; empty for products of computed tensors.
        quick: residual of a linear layer below which no row gets a second look, from clean data; 0 where none was seen.

    Attributes:
        events: int64, shape (batch,): elements of each sample that were set right.
        alarms: int64, shape (batch,): rows of each sample that are wrong and were not set right.
        located: where a linear layer was last found wrong, by its row and column checksums; None before, and for
            ``detect`` on a CUDA device, which waits for no verdict.
        summed: what a kernel that computed the output found meanwhile; None where the output is to be read.

    Raises:
        InvalidConfig: an unknown action, or a chance outside (0, 1).
    """

    kind = "checksum"
    operands = True

    def __init__(
        self,
        site: str,
        action: Action = "correct",
        false_alarms: float = FALSE_ALARMS,
        weights: str = "",
        quick: float = 0.0,
    ) -> None:
        if action not in get_args(Action):
            raise InvalidConfig(f"a checksum cannot {action!r}", hint=f"choose one of {', '.join(get_args(Action))}")
        deviations(false_alarms)
        self.site, self.action, self.false_alarms, self.weights = site, action, false_alarms, weights
        self.quick = quick
        self.events: Tensor | None = None
        self.alarms: Tensor | None = None
        self.located: Located | None = None
        self.summed: Summed | None = None
        self._check: AnyCheck | None = None
        self._device: torch.device | None = None

    @property
    def inner(self) -> LinearCheck | ConvCheck | None:
        """The check of a layer with weights, once it is known."""
        return self._check.inner if isinstance(self._check, LayerCheck) else None

    def learn(self, layer: nn.Module) -> None:
        """Take the sums of ``layer`` as it is now, and its digest."""
        self._check = check_of(layer, self.false_alarms, self.site, "", self.quick)
        self._device = next(layer.parameters()).device
        if isinstance(self._check, LayerCheck):
            self.weights = self._check.sums.weights

    def prepare(self, model: nn.Module) -> None:
        """Take the sums of the layer as it is in the hardened ``model``: a code may have been written into it."""
        layer = dict(model.named_modules()).get(self.site.partition("#")[0])
        if self.weights and layer is not None and digest_of(*weight_and_bias(layer)) != self.weights:
            self.learn(layer)

    def __call__(self, output: Tensor, operands: Operands) -> Tensor:
        """Return the output (batch, ...), checked.

        Raises:
            IntegrityError: something is wrong and the action is ``refuse``, or the weights were others from the start.
        """
        check = self._checking(output, operands)
        if output.numel() == 0:
            return self._counted(output, None, None)
        flags = self._flags(check, output, operands)
        if flags is not None and self.action == "detect":
            alarms = flags.view(len(output), -1).sum(1)
            return self._counted(output, torch.zeros_like(alarms), alarms)
        rows = check.wrong(operands, output) if flags is None else flags.nonzero().flatten()
        if not len(rows):
            return self._counted(output, None, None)
        return self._act(check, rows, output, operands)

    def _checking(self, output: Tensor, operands: Operands) -> AnyCheck:
        if self._check is None or self._device != output.device:
            self._check = check_of(operands.call, self.false_alarms, self.site, self.weights, self.quick)
            self._device = output.device
        return self._check

    def _flags(self, check: AnyCheck, output: Tensor, operands: Operands) -> Tensor | None:
        """Return 1 for each wrong row, int8, where that is known already or can be had without waiting."""
        summed, self.summed = self.summed, None
        if summed is not None and summed.output is output and summed.version == output._version:
            return summed.wrong
        if self.action != "detect" or not isinstance(check, LayerCheck) or not isinstance(check.inner, LinearCheck):
            return None
        return check.inner.flags(input_of(operands), output)

    def _counted(self, output: Tensor, events: Tensor | None, alarms: Tensor | None) -> Tensor:
        nothing = torch.zeros(len(output), dtype=torch.int64) if events is None or alarms is None else None
        self.events, self.alarms = nothing if events is None else events, nothing if alarms is None else alarms
        return output

    def _act(self, check: AnyCheck, rows: Tensor, output: Tensor, operands: Operands) -> Tensor:
        if isinstance(check, LayerCheck) and not check.sums.intact():
            return self._without_sums(output, operands)
        if isinstance(check, LayerCheck):
            self.located = check.located(operands, output, rows, self.false_alarms)
        if self.action == "refuse":
            raise IntegrityError(f"{self.site} computed {len(rows)} rows that its input does not explain")
        if self.action == "detect":
            return self._counted(output, None, per_sample(rows, output, check.rows(output)))
        return self._correct(check, rows, output, operands)

    def _without_sums(self, output: Tensor, operands: Operands) -> Tensor:
        """Take the sums again, which were hit themselves, from weights whose digest says that they were not."""
        self._check = None
        return self(output, operands)

    def _correct(self, check: AnyCheck, rows: Tensor, output: Tensor, operands: Operands) -> Tensor:
        fresh: Tensor = operands.again()  # the same kernel on the same operands: the bits that were meant
        left = check.wrong(operands, fresh)
        if len(left) and isinstance(check, LayerCheck):
            restored = check.with_restored_weights(operands)
            if restored is not None:
                fresh, left = restored, check.wrong(operands, restored)
        changed = changed_elements(output, fresh)
        alarms = per_sample(left, output, check.rows(output))
        events = torch.where(alarms > 0, 0, changed)
        if not output.requires_grad:
            fresh = output.copy_(fresh)  # an operation in place may have other readers
        return self._counted(fresh, events, alarms)

    def to_json(self) -> dict[str, Any]:
        """Return kind, site and parameters, and the digest of the weights."""
        names = ("kind", "site", "action", "false_alarms", "weights", "quick")
        return {name: getattr(self, name) for name in names}


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

    with ExitStack() as hooks, evaluating(model), torch.no_grad(), without_guards(model):
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
