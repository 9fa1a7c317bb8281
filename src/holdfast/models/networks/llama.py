"""LLaMA (Touvron et al., 2023), a decoder of pre-norm blocks with rotary positions, as small as one likes.

Parameters carry the names of Hugging Face's checkpoints, and queries and keys are rotated in their layout (first half
against second half; Su et al., 2021, in the order of GPT-NeoX). Attention is explicit: its products are sites.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from holdfast.errors import InvalidConfig
from holdfast.models.cache import KeyValueCache
from holdfast.models.card import card
from holdfast.models.catalogue import architectures


class RMSNorm(nn.Module):
    """Divide by the root mean square of the last dimension and scale (Zhang & Sennrich, 2019)."""

    def __init__(self, dim: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.epsilon)
        return self.weight * (wide * scale).to(x.dtype)


class Attention(nn.Module):
    """Causal self-attention with rotary positions: (batch, tokens, dim) to the same."""

    def __init__(self, dim: int, heads: int, groups: int, theta: float) -> None:
        super().__init__()
        self.heads, self.groups, self.width, self.theta = heads, groups, dim // heads, theta
        self.q_proj = nn.Linear(dim, heads * self.width, bias=False)
        self.k_proj = nn.Linear(dim, groups * self.width, bias=False)
        self.v_proj = nn.Linear(dim, groups * self.width, bias=False)
        self.o_proj = nn.Linear(heads * self.width, dim, bias=False)

    def forward(self, x: Tensor, cache: KeyValueCache | None = None, layer: int = 0) -> Tensor:
        batch, tokens, _ = x.shape
        before = cache.length(layer) if cache is not None else 0
        q, k, v = (
            projection(x).view(batch, tokens, -1, self.width).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        cos, sin = self._rotation(before, tokens, x)
        q, k = (part * cos + _half_turn(part) * sin for part in (q, k))
        if cache is not None:
            k, v = cache.extended(layer, k, v)
        k, v = (part.repeat_interleave(self.heads // self.groups, 1) for part in (k, v))
        scores = torch.matmul(q, k.transpose(2, 3)) * self.width**-0.5
        future = torch.ones(tokens, before + tokens, dtype=torch.bool, device=x.device).triu(before + 1)
        weights = torch.softmax(scores.masked_fill(future, -torch.inf).float(), dim=-1).to(x.dtype)
        mixed = torch.matmul(weights, v).transpose(1, 2).reshape(batch, tokens, -1)
        return self.o_proj(mixed)  # type: ignore[no-any-return]

    def _rotation(self, before: int, tokens: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return cosine and sine of every angle, shape (tokens, width)."""
        steps = torch.arange(0, self.width, 2, dtype=torch.float32, device=x.device) / self.width
        angles = torch.outer(
            torch.arange(before, before + tokens, dtype=torch.float32, device=x.device), self.theta**-steps
        )
        angles = torch.cat((angles, angles), -1)
        return angles.cos().to(x.dtype), angles.sin().to(x.dtype)


def _half_turn(x: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return torch.cat((-second, first), -1)


class MLP(nn.Module):
    """Gated linear unit with SiLU (Shazeer, 2020): (..., dim) to the same."""

    def __init__(self, dim: int, inner: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(dim, inner, bias=False)
        self.up_proj = nn.Linear(dim, inner, bias=False)
        self.down_proj = nn.Linear(inner, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Two residual branches, each behind its norm."""

    def __init__(self, dim: int, inner: int, heads: int, groups: int, theta: float, epsilon: float) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(dim, epsilon)
        self.self_attn = Attention(dim, heads, groups, theta)
        self.post_attention_layernorm = RMSNorm(dim, epsilon)
        self.mlp = MLP(dim, inner)

    def forward(self, x: Tensor, cache: KeyValueCache | None = None, layer: int = 0) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cache, layer)
        return x + self.mlp(self.post_attention_layernorm(x))  # type: ignore[no-any-return]


class Decoder(nn.Module):
    """Embedding, blocks and norm: tokens (batch, tokens) to features (batch, tokens, dim)."""

    def __init__(self, vocabulary: int, dim: int, blocks: list[Block], epsilon: float) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(vocabulary, dim)
        self.layers = nn.ModuleList(blocks)
        self.norm = RMSNorm(dim, epsilon)

    def forward(self, tokens: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        x = self.embed_tokens(tokens)
        for number, layer in enumerate(self.layers):
            x = layer(x, cache, number)
        return self.norm(x)  # type: ignore[no-any-return]


class Llama(nn.Module):
    """Causal language model: int64 tokens (batch, tokens) to logits (batch, tokens, vocabulary).

    With a ``cache`` the tokens are those that follow the ones it has seen, and only they are computed.
    """

    def __init__(self, decoder: Decoder, head: nn.Linear | None) -> None:
        super().__init__()
        self.model = decoder
        self.lm_head = head  # None: the embedding is used both ways

    def forward(self, tokens: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        features = self.model(tokens, cache)
        if self.lm_head is None:
            return F.linear(features, self.model.embed_tokens.weight)
        return self.lm_head(features)  # type: ignore[no-any-return]


@architectures.register("llama")
def llama(
    dim: int = 64,
    inner: int = 172,
    layers: int = 4,
    heads: int = 4,
    groups: int = 4,
    vocabulary: int = 512,
    context: int = 128,
    epsilon: float = 1e-5,
    theta: float = 10000.0,
    tied: bool = True,
) -> nn.Module:
    """Build a LLaMA; ``groups`` is the number of key and value heads, ``inner`` the width of the gated unit.

    Raises:
        InvalidConfig: sizes that do not divide.
    """
    if min(dim, inner, layers, heads, groups, vocabulary, context) < 1 or dim % (2 * heads) or heads % groups:
        raise InvalidConfig(f"{heads} heads in {groups} groups do not divide a width of {dim} into even parts")
    blocks = [Block(dim, inner, heads, groups, theta, epsilon) for _ in range(layers)]
    head = None if tied else nn.Linear(dim, vocabulary, bias=False)
    model = Llama(Decoder(vocabulary, dim, blocks, epsilon), head)
    card(model).input_shape = (context,)
    return model
