"""Plain vision transformers that need no other package, and one that has learnt the digits."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from holdfast.data import dataset
from holdfast.seeds import derive


class Block(nn.Module):
    """One pre-norm block: attention and an MLP four times as wide."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.fc1, self.fc2, self.act = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim), nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, dim = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, tokens, dim)
        x = x + self.proj(mixed)
        return x + self.fc2(self.act(self.fc1(self.norm2(x))))


class Transformer(nn.Module):
    """A vision transformer: patches by a convolution, a class token, ``depth`` blocks."""

    def __init__(
        self, *, dim: int, heads: int, depth: int, patch: int, image: int, channels: int = 3, classes: int = 1000
    ) -> None:
        super().__init__()
        self.embed = nn.Conv2d(channels, dim, patch, patch)
        self.token = nn.Parameter(torch.zeros(1, 1, dim))
        self.position = nn.Parameter(torch.randn(1, (image // patch) ** 2 + 1, dim) * 0.02)
        self.blocks = nn.Sequential(*(Block(dim, heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(x), -1, -1), tokens], 1) + self.position
        logits: Tensor = self.head(self.norm(self.blocks(tokens))[:, 0])
        return logits


def untrained(dim: int, heads: int, depth: int) -> Transformer:
    """Return a transformer for images of 224 x 224 with random weights."""
    torch.manual_seed(0)
    return Transformer(dim=dim, heads=heads, depth=depth, patch=16, image=224).eval().requires_grad_(False)


def trained_on_digits(steps: int = 250) -> Transformer:
    """Return a small transformer that has seen ``steps`` batches of the digits."""
    torch.manual_seed(0)
    model = Transformer(dim=64, heads=4, depth=2, patch=2, image=8, channels=1, classes=10)
    images, labels = dataset("digits", split="train").all()
    draw, optimizer = derive(0, "training").torch(), torch.optim.AdamW(model.parameters(), 2e-3)
    for _ in range(steps):
        pick = torch.randint(0, len(labels), (128,), generator=draw)
        loss = F.cross_entropy(model(images[pick]), labels[pick])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval().requires_grad_(False)
