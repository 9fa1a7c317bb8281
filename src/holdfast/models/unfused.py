"""Fused operators written out step by step; what each step is called is what a fault can be aimed at."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from holdfast.errors import InvalidConfig

Step = Callable[[str, Tensor], Tensor]  # the name of a step and its value (batch, ...); returns what to go on with


def _attention(
    step: Step,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Scaled dot-product attention (Vaswani et al., 2017): ``softmax(Q K^T * scale + mask) V``."""
    return _attended(step, query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)[0]


def _attended(
    step: Step,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    dropout: float,
    causal: bool,
    scale: float | None = None,
    grouped: bool = False,
) -> tuple[Tensor, Tensor]:
    if grouped:
        key, value = (part.repeat_interleave(query.size(-3) // part.size(-3), -3) for part in (key, value))
    scores = step("scores", query @ key.transpose(-2, -1) * (query.size(-1) ** -0.5 if scale is None else scale))
    if causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
    weights = torch.softmax(scores, -1)
    if mask is not None:  # a query that may look nowhere gets zero, as in the fused kernels
        weights = weights.masked_fill((scores == -math.inf).all(-1, keepdim=True), 0.0)
    weights = step("softmax", weights)
    mixed = (torch.dropout(weights, dropout, True) if dropout else weights) @ value
    return step("av", mixed), weights


def _multi_head(
    step: Step,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None,
    static_k: Tensor | None = None,
    static_v: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Attention of :class:`torch.nn.MultiheadAttention`: tokens come first, (tokens, batch, dim), or (tokens, dim)."""
    if add_zero_attn or any(item is not None for item in (bias_k, bias_v, static_k, static_v)):
        raise InvalidConfig("attention with added keys or values has no internals here", hint="select activations")
    single = query.dim() == 2
    sources = [part.unsqueeze(1) if single else part for part in (query, key, value)]
    if use_separate_proj_weight or in_proj_weight is None:
        projections: tuple[Tensor | None, ...] = (q_proj_weight, k_proj_weight, v_proj_weight)
    else:
        projections = in_proj_weight.chunk(3)
    offsets: tuple[Tensor | None, ...] = (None, None, None) if in_proj_bias is None else in_proj_bias.chunk(3)
    heads = [
        step(name, F.linear(part, weight, bias).unflatten(-1, (num_heads, -1)).permute(1, 2, 0, 3).contiguous())  # type: ignore[arg-type]
        for name, part, weight, bias in zip(("queries", "keys", "values"), sources, projections, offsets, strict=True)
    ]
    mask = _merged(attn_mask, key_padding_mask, num_heads, heads[0])
    mixed, weights = _attended(
        step, heads[0], heads[1], heads[2], mask, dropout_p if training else 0.0, is_causal and mask is None
    )
    joined = mixed.permute(0, 2, 1, 3).flatten(2)
    output = step("out_proj", F.linear(joined, out_proj_weight, out_proj_bias)).transpose(0, 1)
    if average_attn_weights:
        weights = weights.mean(1)
    shown = (weights.squeeze(0) if single else weights) if need_weights else None
    return output.squeeze(1) if single else output, shown


def _merged(mask: Tensor | None, padding: Tensor | None, heads: int, like: Tensor) -> Tensor | None:
    """Return both masks as one to add, (batch or 1, heads or 1, queries or 1, keys); true means hidden."""

    def added(item: Tensor) -> Tensor:
        if item.dtype != torch.bool:
            return item.to(like.dtype)
        return torch.zeros_like(item, dtype=like.dtype).masked_fill(item, -math.inf)

    merged = None
    if mask is not None:
        merged = added(mask)
        merged = merged.unflatten(0, (-1, heads)) if merged.dim() == 3 else merged[None, None]
    if padding is not None:
        hidden = added(padding.unsqueeze(0) if padding.dim() == 1 else padding)[:, None, None]
        merged = hidden if merged is None else merged + hidden
    return merged


def _layer_norm(
    step: Step,
    input: Tensor,
    normalized_shape: list[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *_: object,
) -> Tensor:
    """Ba, Kiros & Hinton (2016): subtract the mean of a sample's features, divide by their deviation."""
    axes = tuple(range(-len(normalized_shape), 0))
    wide = _wide(input)
    centred = wide - step("mean", wide.mean(axes, keepdim=True))
    rstd = step("rstd", torch.rsqrt(centred.square().mean(axes, keepdim=True) + eps))
    return _affine((centred * rstd).to(input.dtype), weight, bias)


def _rms_norm(
    step: Step, input: Tensor, normalized_shape: list[int], weight: Tensor | None = None, eps: float | None = None
) -> Tensor:
    """Zhang & Sennrich (2019): divide by the root mean square of a sample's features."""
    wide = _wide(input)
    least = torch.finfo(input.dtype).eps if eps is None else eps
    squares = wide.square().mean(tuple(range(-len(normalized_shape), 0)), keepdim=True)
    return _affine((wide * step("rstd", torch.rsqrt(squares + least))).to(input.dtype), weight, None)


def _group_norm(
    step: Step,
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Wu & He (2018): the statistics of a layer norm over each group of a sample's channels."""
    wide = _wide(input).unflatten(1, (num_groups, -1)).flatten(2)
    centred = wide - step("mean", wide.mean(2, keepdim=True))
    rstd = step("rstd", torch.rsqrt(centred.square().mean(2, keepdim=True) + eps))
    shape = (1, -1, *[1] * (input.dim() - 2))
    scale, shift = (None if item is None else item.view(shape) for item in (weight, bias))
    return _affine((centred * rstd).view(input.shape).to(input.dtype), scale, shift)


def _batch_norm(
    step: Step,
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *_: object,
) -> Tensor:
    """Ioffe & Szegedy (2015), with running statistics; each sample reads its own copy of them."""
    if training or running_mean is None or running_var is None:  # statistics of a batch belong to no sample
        return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    side = (len(input), input.size(1), *[1] * (input.dim() - 2))
    mean, variance = (_wide(item).view(1, *side[1:]).expand(side).contiguous() for item in (running_mean, running_var))
    mean, rstd = step("mean", mean), step("rstd", torch.rsqrt(variance + eps))
    shape = (1, -1, *side[2:])
    scale, shift = (None if item is None else item.view(shape) for item in (weight, bias))
    return _affine(((_wide(input) - mean) * rstd).to(input.dtype), scale, shift)


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


STEPS: dict[Any, tuple[str, Callable[..., Any]]] = {
    F.scaled_dot_product_attention: ("scaled_dot_product_attention", _attention),
    F.multi_head_attention_forward: ("multi_head_attention", _multi_head),
    F.layer_norm: ("layer_norm", _layer_norm),
    F.rms_norm: ("rms_norm", _rms_norm),
    F.group_norm: ("group_norm", _group_norm),
    F.batch_norm: ("batch_norm", _batch_norm),
}
