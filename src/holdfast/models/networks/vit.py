"""A small vision transformer (Dosovitskiy et al., 2021) whose attention is explicit: Q @ K and softmax are sites."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from holdfast.models.card import card
from holdfast.models.catalogue import architectures


class Attention(nn.Module):
    """Multi-head self-attention: (batch, tokens, dim) to the same."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (dim // heads) ** -0.5
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, dim = x.shape
        qkv = self.qkv(x).view(batch, tokens, 3, self.heads, dim // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        attention = torch.softmax(torch.matmul(q * self.scale, k.transpose(-2, -1)), dim=-1)
        mixed = torch.matmul(attention, v)
        return self.proj(mixed.transpose(1, 2).reshape(batch, tokens, dim))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Pre-norm transformer block with two residual branches."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]


class VisionTransformer(nn.Module):
    """Patch embedding, class token, blocks, head: (batch, channels, size, size) to (batch, classes)."""

    def __init__(self, size: int, patch: int, channels: int, dim: int, depth: int, heads: int, classes: int) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(channels, dim, patch, patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, (size // patch) ** 2 + 1, dim))
        self.blocks = nn.Sequential(*(Block(dim, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patch_embed(x).flatten(2).transpose(1, 2)
        tokens = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), tokens), dim=1) + self.pos_embed
        return self.head(self.norm(self.blocks(tokens))[:, 0])  # type: ignore[no-any-return]


@architectures.register("vit-tiny")
def vit_tiny(
    size: int = 32,
    patch: int = 4,
    channels: int = 3,
    dim: int = 64,
    depth: int = 4,
    heads: int = 4,
    classes: int = 10,
) -> nn.Module:
    """Build a small vision transformer for ``size`` x ``size`` images."""
    model = VisionTransformer(size, patch, channels, dim, depth, heads, classes)
    card(model).input_shape = (channels, size, size)
    return model
