"""Multiply-accumulates of every site, counted by running the model once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from holdfast.errors import InvalidConfig
from holdfast.models.site import Site
from holdfast.models.subject import evaluating
from holdfast.models.tap import Watch


def count_macs(model: nn.Module, example: Tensor, sites: Sequence[Site]) -> dict[str, int]:
    """Return the multiply-accumulates of one sample behind each site, by address.

    What flows has those of the operation that wrote it; stored matrices and kernels those of their module's own
    operations, which multiply by them. Convolutions, matrix products and attention count, as torch's flop counter
    does; element-wise operations, biases and norms do not, and sites with none are left out.

    Raises:
        InvalidConfig: the model multiplies nothing that torch can see.
    """
    found = _count(model, example)
    if not found:
        raise InvalidConfig("no multiply-accumulate of this model can be counted", hint="sample bit-uniform")
    by_module = Counter[str]()
    for name, count in found.items():
        by_module[_module(name)] += count
    result = {}
    for site in sites:
        if site.kind == "weights" and len(site.shape) > 1:
            result[site.address] = by_module[_owner(site.name)]
        elif site.kind == "activations":
            result[site.address] = found.get(site.name, 0)
    return {address: count for address, count in result.items() if count}


def _count(model: nn.Module, example: Tensor) -> Counter[str]:
    found, seen = Counter[str](), 0

    def visit(name: str, value: Tensor) -> Tensor:
        nonlocal seen
        total = counter.get_total_flops() // 2  # torch counts a multiplication and an addition
        found[name] += total - seen
        seen = total
        return value

    # the counter below the watch: it must have counted an operation when the watch sees its result
    with torch.no_grad(), evaluating(model), FlopCounterMode(display=False) as counter, Watch(model, visit):
        model(example[None])
    return +found


def _module(place: str) -> str:
    """Return the path of the module that computes a place: ``attn`` of ``attn/matmul#1``."""
    name = place.partition("#")[0]
    return name.rpartition("/")[0] if "/" in name else name


def _owner(name: str) -> str:
    """Return the path of the module that a stored tensor belongs to: ``fc`` of ``fc.weight/scale``."""
    return name.partition("/")[0].rpartition(".")[0]
