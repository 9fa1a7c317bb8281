"""Linear layers that are checked by the kernel that computes them, for the length of a block, on a CUDA device.

The sums are taken of the product before it is rounded and stored, so they see errors of the product, and of weights,
that are far smaller than the rounding of a 16-bit output. They do not see what happens to the output after it was
stored: an output that torch has written to since, as an injected fault does, is read again and checked as ever, but
one that the hardware changes is not. Decision 20 says why both ways of checking are kept.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from holdfast._kernels.device import attempt, obstacle
from holdfast.errors import InvalidConfig
from holdfast.hardening.guards.checksum import ChecksumGuard, Summed
from holdfast.hardening.guards.checksum_linear import LinearCheck
from holdfast.hardening.guards.checksum_rounding import Rounding
from holdfast.hardening.guards.checksum_sums import Sums
from holdfast.models import card

if TYPE_CHECKING:
    from holdfast._kernels.gemm_checksum import FusedLaw

_log = logging.getLogger(__name__)
_DTYPES = (torch.float16, torch.bfloat16, torch.float32)
_TOGETHER = 8  # products that tensor cores add at once; newer ones add more, and cut off less often


def fused_law(check: LinearCheck, dtype: torch.dtype) -> FusedLaw:
    """Return what the fp32 sums of the rows of a product are held against, for the weights that ``check`` knows.

    The variance is that of :mod:`holdfast.hardening.guards.checksum_rounding` with both chains in fp32 and no rounding
    of the output: terms (K + 1) u^2 / 3 times the inputs' squares weighted with g + c^2, and outputs (2 (K + 1) + N)
    u^2 / 3 times the squares of the outputs. To both comes what tensor cores cut off, see :func:`_cut_off`.

    Args:
        check: of the layer.
        dtype: of inputs and weights.
    """
    from holdfast._kernels.gemm_checksum import FusedLaw

    (outputs, chain), sums = check.shape, check.sums
    device = sums.signs.device
    tf32 = device.type == "cuda" and dtype == torch.float32 and torch.backends.cuda.matmul.allow_tf32
    rounding, column = Rounding.of_dtype(torch.float32, tf32=tf32), sums.plain[0, :-1]
    floor = check.limit * rounding.floor(outputs, check.bias_length)
    cut = 0.0 if dtype == torch.float32 else _cut_off(chain)
    numbers = [sums.bias, rounding.of_terms(chain) + cut, rounding.of_outputs(chain, outputs) + cut, check.limit, floor]
    return FusedLaw(
        signs=sums.signs.float(),
        column=column.float(),
        gram=(check.gram + column.square()).float(),
        numbers=torch.tensor(numbers, dtype=torch.float64).to(device),
        precision="tf32" if tf32 else "ieee",
    )


def _cut_off(chain: int) -> float:
    """Return the variance, in units of Q + C or of the squared outputs, of sums of 16-bit products on tensor cores.

    Tensor cores add several products at once and truncate what they keep (Fasi, Higham, Mikaitis and Pranesh, 2021,
    *Numerical behavior of NVIDIA tensor cores*): m = K / 8 errors of one sign, on average 0.72 u times the partial sum,
    which do not cancel. Their sum is at most 0.72 u m times the longest partial sum; random signs make that a variance.
    """
    return (math.ceil(chain / _TOGETHER) * 2.0**-24) ** 2 / 2


@contextmanager
def fused_products(model: nn.Module) -> Iterator[int]:
    """Have linear layers with a checksum guard computed and summed by one kernel inside the block; yield how many are.

    Their bits are then those of this kernel, not of the library. A guard with the action ``detect`` waits for nothing;
    one that corrects asks the device about every layer. Where the kernel cannot run, a layer computes as ever, and the
    reason is logged.
    """
    modules = dict(model.named_modules())
    with ExitStack() as undo:
        count = 0
        for guard in card(model).guards:
            layer = modules.get(guard.site) if isinstance(guard, ChecksumGuard) else None
            if isinstance(guard, ChecksumGuard) and type(layer) is nn.Linear and isinstance(guard.inner, LinearCheck):
                layer.forward = _Fused(layer, guard)  # type: ignore[method-assign, assignment]
                undo.callback(_restore, layer, guard)
                count += 1
        yield count


def _restore(layer: nn.Module, guard: ChecksumGuard) -> None:
    del layer.forward
    guard.summed = None


class _Fused:
    def __init__(self, layer: nn.Linear, guard: ChecksumGuard) -> None:
        self._layer, self._guard = layer, guard
        self._law: FusedLaw | None = None
        self._sums: Sums | None = None
        self._told = False

    def __call__(self, x: Tensor) -> Tensor:
        layer = self._layer
        reason = _obstacle(x, layer.weight, layer.bias)
        if reason is None:
            found = attempt(lambda: self._run(x), x.device)
            if found is not None:
                return found
            reason = "its kernel does not compile"
        if not self._told:
            _log.warning("%s is computed by the library: %s", self._guard.site, reason)
            self._told = True
        self._guard.summed = None
        return nn.functional.linear(x, layer.weight, layer.bias)

    def _run(self, x: Tensor) -> Tensor:
        from holdfast._kernels.gemm_checksum import product, wrong_flags

        layer, law = self._layer, self._known()
        bias = None if layer.bias is None else layer.bias.detach()
        found = product(x.reshape(-1, x.shape[-1]), layer.weight.detach(), bias, law)
        output = found.output.view(*x.shape[:-1], len(layer.weight))
        self._guard.summed = Summed(output, output._version, wrong_flags(found, law))
        return output

    def _known(self) -> FusedLaw:
        """Return the law of the weights as they were summed, which those in memory now may no longer be."""
        check = self._guard.inner
        if not isinstance(check, LinearCheck):
            raise InvalidConfig(f"{self._guard.site} no longer has the check of a linear layer")
        if self._law is None or self._sums is not check.sums:
            self._sums, self._law = check.sums, fused_law(check, self._layer.weight.dtype)
        return self._law


def _obstacle(x: Tensor, weight: Tensor, bias: Tensor | None) -> str | None:
    """Return why the kernel must not read these; None if it may. What the library refuses, it is left to refuse."""
    terms = [weight] if bias is None else [weight, bias]
    if x.requires_grad or (torch.is_grad_enabled() and any(item.requires_grad for item in terms)):
        return "a gradient is asked for"
    if torch.is_autocast_enabled(x.device.type):
        return "autocast chooses the dtype"
    if x.dtype not in _DTYPES or any(item.dtype != x.dtype for item in terms):
        kinds = " and ".join(f"{item.dtype} {name}" for item, name in zip(terms, ("weights", "bias"), strict=False))
        return f"{x.dtype} inputs, {kinds}"
    if x.shape[-1:] != weight.shape[1:] or (bias is not None and bias.shape != weight.shape[:1]):
        return f"inputs {tuple(x.shape)} do not fit weights {tuple(weight.shape)} and their bias"
    if any(item.device != x.device for item in terms):
        return "inputs, weights and bias lie on several devices"
    return next((reason for reason in map(obstacle, (x, *terms)) if reason is not None), None)
