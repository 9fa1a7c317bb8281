"""How much published weights say about deployed codes: the measure that a de-similarity training has to lower.

A model fine-tuned from a public one stays close to it, so an attacker who sees int8 codes ``q`` and knows the public
weights ``w`` fits each hidden scale by least squares, ``s = <q, w> / <q, q>`` (TSQP's threat; IEEE S&P 2025).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from scipy import stats
from torch import Tensor

from holdfast.errors import InvalidConfig

_LEAST = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class Similarity:
    """Of one layer, or of several together.

    Attributes:
        cosine: per output channel between codes and public weights, mean weighted by size; scales do not change it.
        residual: share of the codes' energy that the best scale per channel leaves unexplained: 1 - cosine squared.
        rank: Spearman's correlation over all weights after the fit.
        information: nats per weight that the public weights tell under a joint normal law, -log(1 - cosine^2) / 2.
        weights: how many.
    """

    cosine: float
    residual: float
    rank: float
    information: float
    weights: int


def fitted_scale(codes: Tensor, public: Tensor) -> Tensor:
    """Return the least-squares scale of each channel, shape (out,), with codes and public weights (out, ...).

    Raises:
        InvalidConfig: the shapes differ.
    """
    left, right = _rows(codes, public)
    return ((left * right).sum(1) / left.square().sum(1).clamp(min=_LEAST)).float()


def similarity(codes: Tensor, public: Tensor) -> Similarity:
    """Compare the codes of one layer (out, ...) with public weights of the same shape.

    Raises:
        InvalidConfig: the shapes differ.
    """
    left, right = _rows(codes, public)
    norms = (left.norm(dim=1) * right.norm(dim=1)).clamp(min=_LEAST)
    cosines = (left * right).sum(1) / norms
    fit = (left * fitted_scale(codes, public).double()[:, None]).reshape(-1)
    ranks = stats.spearmanr(fit.numpy(), right.reshape(-1).numpy()).statistic if fit.numel() > 1 else 1.0
    left_over = (1 - cosines.square()).clamp(min=_LEAST)
    return Similarity(
        cosine=float(cosines.mean()),
        residual=float(left_over.mean()),
        rank=float(ranks),
        information=float(-0.5 * left_over.log().mean()),
        weights=codes.numel(),
    )


def overall(codes: Mapping[str, Tensor], public: Mapping[str, Tensor]) -> tuple[dict[str, Similarity], Similarity]:
    """Compare every layer that both have in the same shape; return each, and the mean weighted by weights.

    Raises:
        InvalidConfig: there is none.
    """
    shared = [name for name, value in codes.items() if name in public and public[name].shape == value.shape]
    if not shared:
        raise InvalidConfig("the two models share no layer of one shape", hint="compare a model with what it came from")
    each = {name: similarity(codes[name], public[name]) for name in shared}
    sizes = torch.tensor([item.weights for item in each.values()], dtype=torch.float64)

    def mean(values: list[float]) -> float:
        return float((torch.tensor(values, dtype=torch.float64) * sizes).sum() / sizes.sum())

    return each, Similarity(
        cosine=mean([item.cosine for item in each.values()]),
        residual=mean([item.residual for item in each.values()]),
        rank=mean([item.rank for item in each.values()]),
        information=mean([item.information for item in each.values()]),
        weights=int(sizes.sum()),
    )


def _rows(codes: Tensor, public: Tensor) -> tuple[Tensor, Tensor]:
    if codes.shape != public.shape:
        raise InvalidConfig(f"codes of shape {tuple(codes.shape)} do not compare with {tuple(public.shape)}")
    return codes.detach().flatten(1).double(), public.detach().flatten(1).double()
