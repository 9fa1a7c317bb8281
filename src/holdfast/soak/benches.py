"""What a soak run computes over and over: a model on some inputs, or one kernel on operands of its own.

A bench is a module and its inputs, one tensor per batch; everything it reads can be hashed and put back. The kernels
are the ones that inference spends its time in, as self-tests of processors do (OpenDCDiag's matrix products): one
matrix product, one group of attention heads, one layer norm, each in float32 and bfloat16.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from holdfast.data import Dataset
from holdfast.errors import InvalidConfig, UnknownName
from holdfast.models.outputs import logits_of
from holdfast.seeds import Seed, derive

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_BATCHES = 4


@dataclass(frozen=True, eq=False)
class Bench:
    """``decides`` says whether outputs are class scores, so that a changed top-1 is a changed decision."""

    name: str
    module: nn.Module
    inputs: tuple[Tensor, ...]
    decides: bool
    labels: tuple[Tensor, ...] = ()  # of each batch, int64; logged beside a wrong decision
    hardened: bool = False

    def run(self, batch: int) -> Tensor:
        """Return the output of one batch as rows, float, shape (rows, columns)."""
        output = logits_of(self.module(self.inputs[batch]))
        if not isinstance(output, Tensor) or output.dim() < 2 or not output.is_floating_point():
            raise InvalidConfig(f"{self.name} does not give one float tensor of two dimensions or more")
        return output.reshape(-1, output.shape[-1])

    def on(self, device: torch.device) -> Bench:
        """Return it on a device."""
        moved = tuple(item.to(device) for item in self.inputs)
        return Bench(self.name, self.module.to(device), moved, self.decides, self.labels, self.hardened)


def model_bench(name: str, model: nn.Module, data: Dataset, *, samples: int = 40, batch_size: int = 4) -> Bench:
    """Return the bench of a model on the first ``samples`` of ``data``.

    Raises:
        InvalidConfig: no sample, or no batch size.
    """
    from holdfast.models import card

    if samples < 1 or batch_size < 1:
        raise InvalidConfig(f"{samples} samples in batches of {batch_size} are nothing to compute")
    batches = [*data.take(min(samples, len(data))).batches(batch_size)]
    images, labels = tuple(item for item, _ in batches), tuple(item for _, item in batches)
    return Bench(name, model.eval(), images, True, labels, bool(card(model).guards))


def kernel_benches(names: Sequence[str], *, seed: int = 0) -> tuple[Bench, ...]:
    """Return the benches of ``gemm``, ``attention`` and ``norm``, in every number format.

    Raises:
        UnknownName: another kernel.
    """
    for name in names:
        if name not in KERNELS:
            near = difflib.get_close_matches(name, KERNELS, n=1)
            raise UnknownName(f"unknown kernel {name!r}", hint=f"did you mean {(near or [*KERNELS])[0]}?")
    return tuple(_kernel(name, label, derive(seed, "soak", name, label)) for name in names for label in _DTYPES)


def _kernel(name: str, label: str, seed: Seed) -> Bench:
    dtype, (module, shape) = _DTYPES[label], KERNELS[name]
    built = module(derive(seed, "weights").torch()).to(dtype).eval()
    generator = derive(seed, "inputs").torch()
    inputs = tuple(torch.randn(shape, generator=generator).to(dtype) for _ in range(_BATCHES))
    return Bench(f"{name}-{label}", built, inputs, decides=False)


class _Gemm(nn.Module):
    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(256, 256, generator=generator), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


class _Attention(nn.Module):
    """softmax(Q K^T / sqrt(d)) V with Q, K and V stacked in the input, shape (3, heads, tokens, d)."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((1,), 1 / math.sqrt(64)), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = x
        scores: Tensor = torch.softmax(query @ key.mT * self.scale, -1) @ value
        return scores


class _Norm(nn.Module):
    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(1024)
        self.norm.weight = nn.Parameter(torch.randn(1024, generator=generator), requires_grad=False)
        self.norm.bias = nn.Parameter(torch.randn(1024, generator=generator), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        normed: Tensor = self.norm(x)
        return normed


KERNELS: dict[str, tuple[Callable[[torch.Generator], nn.Module], tuple[int, ...]]] = {
    "gemm": (_Gemm, (256, 256)),
    "attention": (_Attention, (3, 4, 128, 64)),
    "norm": (_Norm, (256, 1024)),
}
