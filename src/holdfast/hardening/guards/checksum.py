"""Algorithm-based fault tolerance: products are checked by sums, wrong ones computed again, wrong weights given back.

Huang and Abraham, IEEE Transactions on Computers C-33 (1984), as used for inference by ALBERTA and others: a fault in
a product, or in the weights since they were summed, changes a checksum by more than rounding can. Thresholds are those
of :mod:`holdfast.hardening.guards.checksum_rounding`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from holdfast.errors import IntegrityError, InvalidConfig
from holdfast.hardening.guards.checksum_conv import ConvCheck
from holdfast.hardening.guards.checksum_linear import LinearCheck
from holdfast.hardening.guards.checksum_operands import Batched, lacks_batch
from holdfast.hardening.guards.checksum_operations import (
    AnyCheck,
    LayerCheck,
    Located,
    changed_elements,
    check_of,
    per_sample,
)
from holdfast.hardening.guards.checksum_rounding import FALSE_ALARMS, deviations
from holdfast.hardening.guards.checksum_sums import digest_of, weight_and_bias
from holdfast.models.guard import Operands, guards

Action = Literal["correct", "detect", "refuse"]


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
        by_sample: what is done to a sample does not depend on those beside it, unless one is refused for all.
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
        self.by_sample = action != "refuse"
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
        """Return the output (batch, ...), checked; a layer's output for one sample without a batch counts as one.

        Raises:
            IntegrityError: something is wrong and the action is ``refuse``, or the weights were others from the start.
            UnsupportedFormat: there is no threshold for this dtype, or the weights overflow in it.
        """
        if lacks_batch(operands, output):
            checked = self(alone := output.unsqueeze(0), Batched.of(operands))
            return output if checked is alone else checked.squeeze(0)
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
        return check.flags(operands, output) if self.action == "detect" and isinstance(check, LayerCheck) else None

    def _counted(self, output: Tensor, events: Tensor | None, alarms: Tensor | None) -> Tensor:
        nothing = torch.zeros(len(output), dtype=torch.int64) if events is None or alarms is None else None
        self.events, self.alarms = nothing if events is None else events, nothing if alarms is None else alarms
        return output

    def _act(self, check: AnyCheck, rows: Tensor, output: Tensor, operands: Operands) -> Tensor:
        if isinstance(check, LayerCheck) and not check.intact():
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
        wrong = per_sample(rows, output, check.rows(output)) > 0
        fresh: Tensor = operands.again()  # the same kernel on the same operands: the bits that were meant
        left = check.wrong(operands, fresh)
        if len(left) and isinstance(check, LayerCheck):
            restored = check.with_restored_weights(operands)
            if restored is not None:
                fresh, left = restored, check.wrong(operands, restored)
        # a sample that nothing is wrong with stays as it is: what is done to one may not depend on those beside it
        fresh = torch.where(wrong.view(-1, *[1] * (output.dim() - 1)), fresh, output)
        changed = changed_elements(output, fresh)
        alarms = torch.where(wrong, per_sample(left, output, check.rows(output)), 0)
        events = torch.where(alarms > 0, 0, changed)
        if not output.requires_grad:
            fresh = output.copy_(fresh)  # an operation in place may have other readers
        return self._counted(fresh, events, alarms)

    def to_json(self) -> dict[str, Any]:
        """Return kind, site and parameters, and the digest of the weights."""
        names = ("kind", "site", "action", "false_alarms", "weights", "quick")
        return {name: getattr(self, name) for name in names}
