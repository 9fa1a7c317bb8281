"""Small nets with the computations, and the awkward habits, of the families that guards are placed in."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DropPath(nn.Module):
    """A branch output is this object where a library drops paths, and nn.Identity where it does not."""

    def forward(self, x: Tensor) -> Tensor:
        return x if not self.training else x * 0


class Attention(nn.Module):
    """With rotary positions it adds two products, which is no residual; with a bias, a table, which is none either."""

    def __init__(self, dim: int, *, causal: bool = False, rope: bool = False, bias: bool = False) -> None:
        super().__init__()
        self.qkv, self.proj, self.causal, self.rope = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim), causal, rope
        self.bias = nn.Parameter(torch.zeros(16, 16)) if bias else None
        self.register_buffer("angle", torch.rand(16, dim))

    def turned(self, x: Tensor) -> Tensor:
        return x * self.angle.cos() + x.flip(-1) * self.angle.sin()

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        if self.rope:
            q, k = self.turned(q), self.turned(k)
        scores = q @ k.transpose(-2, -1)
        if self.bias is not None:
            scores = scores + self.bias
        if self.causal:
            scores = scores.masked_fill(torch.ones(16, 16).triu(1).bool(), -torch.inf)
        return self.proj(scores.softmax(-1) @ v)


class Mlp(nn.Module):
    def __init__(self, dim: int, *, gated: bool = False) -> None:
        super().__init__()
        self.fc1, self.gate = nn.Linear(dim, 2 * dim), nn.Linear(dim, 2 * dim) if gated else None
        self.fc2, self.drop = nn.Linear(2 * dim, dim), nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.gelu(self.fc1(x)) if self.gate is None else F.silu(self.gate(x)) * self.fc1(x)
        return self.drop(self.fc2(hidden))


class Block(nn.Module):
    """Normalises before the branches, or after them as SwinV2 does; may scale them by a parameter as EVA does."""

    def __init__(self, dim: int, *, post: bool = False, scaled: bool = False, gated: bool = False, **options: bool):
        super().__init__()
        self.norm1, self.norm2, self.post = nn.LayerNorm(dim), nn.LayerNorm(dim), post
        self.attn, self.mlp = Attention(dim, **options), Mlp(dim, gated=gated)
        self.drop_path = DropPath() if post else nn.Identity()
        self.gamma = nn.Parameter(torch.full((dim,), 0.5)) if scaled else None

    def branch(self, x: Tensor, norm: nn.Module, inner: nn.Module) -> Tensor:
        y = norm(inner(x)) if self.post else inner(norm(x))
        return self.drop_path(y if self.gamma is None else self.gamma * y)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.branch(x, self.norm1, self.attn)
        return x + self.branch(x, self.norm2, self.mlp)


class Transformer(nn.Module):
    """Images 3x8x8 as 16 tokens, or 16 token ids, through blocks to 5 logits (of every token, for ids)."""

    def __init__(self, depth: int = 2, *, words: bool = False, dim: int = 12, **options: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, dim) if words else nn.Conv2d(3, dim, 2, 2)
        self.position = nn.Parameter(torch.rand(16, dim))
        self.blocks = nn.ModuleList(Block(dim, **options) for _ in range(depth))
        self.norm, self.head, self.words = nn.LayerNorm(dim), nn.Linear(dim, 5), words

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x) if self.words else self.embed(x).flatten(2).transpose(1, 2)
        x = x + self.position
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return self.head(x if self.words else x.mean(1))


class MbConv(nn.Module):
    """Expansion, squeeze and excitation, projection, beside a pooled and projected shortcut."""

    def __init__(self, dim: int, wide: int) -> None:
        super().__init__()
        self.norm, self.expand = nn.BatchNorm2d(dim), nn.Conv2d(dim, wide, 1)
        self.squeeze, self.project = nn.Conv2d(wide, wide, 1), nn.Conv2d(wide, wide, 3, 2, 1)
        self.shortcut = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(dim, wide, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = F.gelu(self.expand(self.norm(x)))
        y = y * torch.sigmoid(self.squeeze(y.mean((2, 3), keepdim=True)))
        return self.shortcut(x) + self.project(y)


class MaxVit(nn.Module):
    """A convolutional block, then attention within windows and across a grid, channels last."""

    def __init__(self, dim: int = 12) -> None:
        super().__init__()
        self.conv, self.block, self.grid = MbConv(3, dim), _Partition(dim, grid=False), _Partition(dim, grid=True)
        self.head = nn.Linear(dim, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).permute(0, 2, 3, 1)
        return self.head(self.grid(self.block(x)).mean((1, 2)))


class _Partition(nn.Module):
    def __init__(self, dim: int, *, grid: bool) -> None:
        super().__init__()
        self.norm1, self.norm2, self.attn, self.mlp = nn.LayerNorm(dim), nn.LayerNorm(dim), Attention(dim), Mlp(dim)
        self.order = (0, 1, 3, 2, 4, 5) if not grid else (0, 2, 4, 1, 3, 5)

    def attend(self, x: Tensor) -> Tensor:
        b, h, w, c = x.shape
        parts = x.view(b, h // 4, 4, w // 4, 4, c).permute(self.order).reshape(-1, 16, c)
        back = torch.argsort(torch.tensor(self.order)).tolist()
        shape = [(b, h // 4, 4, w // 4, 4, c)[place] for place in self.order]
        return self.attn(parts).view(shape).permute(back).contiguous().view(b, h, w, c)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attend(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Residual(nn.Module):
    """Two convolutions and a projected shortcut, added in place as torchvision's ResNet does."""

    def __init__(self, dim: int, wide: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(dim, wide, 3, padding=1), nn.BatchNorm2d(wide)
        self.conv2, self.bn2, self.relu = nn.Conv2d(wide, wide, 3, padding=1), nn.BatchNorm2d(wide), nn.ReLU(True)
        self.downsample = nn.Sequential(nn.Conv2d(dim, wide, 1), nn.BatchNorm2d(wide)) if dim != wide else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        y += x if self.downsample is None else self.downsample(x)
        return self.relu(y)


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.layers = nn.Conv2d(3, 8, 3, padding=1), nn.Sequential(Residual(8, 8), Residual(8, 12))
        self.fc = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.layers(F.relu(self.stem(x))).mean((2, 3)))


IMAGE = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
BIG_IMAGE = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0))
WORDS = torch.arange(16) % 7

# family -> (net, one sample, number of branch outputs, of residual sums)
FAMILIES = {
    "vit": (lambda: Transformer(), IMAGE, 4, 4),
    "swinv2": (lambda: Transformer(post=True, bias=True), IMAGE, 4, 4),
    "maxvit": (lambda: MaxVit(), BIG_IMAGE, 6, 5),
    "eva": (lambda: Transformer(rope=True, gated=True, scaled=True), IMAGE, 4, 4),
    "resnet": (lambda: ResNet(), IMAGE, 3, 2),
    "gpt2": (lambda: Transformer(words=True, causal=True), WORDS, 4, 4),
}
