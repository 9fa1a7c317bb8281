"""How the gradient of a perturbation of weights becomes a step (Stutz et al., TPAMI 2022 and their released code).

Three choices give their sign, Linf, L2, relative and layer-wise variants. Their "L0" and "Hamming" normalisations
(divide by the L1 norm, then by the maximum) are Linf.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from holdfast.models.site import Site

Norm = Literal["sign", "linf", "l2"]


def normalised(
    gradients: Mapping[Site, Tensor], weights: Mapping[Site, Tensor], norm: Norm, *, per_layer: bool, relative: bool
) -> dict[Site, Tensor]:
    """Return the gradients divided by their norm, shaped as before; gradients of zero stay zero.

    Nothing is read on the host. Half precision has no room for a norm: its steps are float32.

    Args:
        gradients: by site.
        weights: the values at which they were taken.
        norm: ``sign`` takes the sign of each element; ``linf`` and ``l2`` divide by that norm.
        per_layer: each tensor by its own norm instead of all by one.
        relative: multiply by the same norm of the weights (for ``sign``, the largest magnitude), so that a step is a
            share of them. The released code divides by it, which its own paper does not mean.
    """
    groups = [[site] for site in gradients] if per_layer else [list(gradients)]
    result = {}
    for group in groups:
        size = _norm([gradients[site] for site in group], norm)
        scale = _norm([weights[site] for site in group], "linf" if norm == "sign" else norm) if relative else 1.0
        divisor = torch.where(size > 0, size, 1)
        for site in group:
            step = gradients[site] if gradients[site].dtype.itemsize > 2 else gradients[site].float()
            result[site] = (step.sign() if norm == "sign" else step / divisor) * scale
    return result


def _norm(tensors: list[Tensor], norm: Norm) -> Tensor:
    """Return the norm of all elements together, float64 (), where they lie; non-finite ones count as 0."""
    flat = torch.cat([tensor.detach().reshape(-1).double() for tensor in tensors])
    flat = torch.where(flat.isfinite(), flat, 0)
    if not len(flat):
        return flat.new_zeros(())
    return flat.norm() if norm == "l2" else flat.abs().max()
