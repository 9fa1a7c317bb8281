"""Small networks with the traits that trip a replay: writes in place, views, fused calls, tokens, depthwise layers."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from holdfast.models import build_architecture


class Basic(nn.Module):
    """A residual block that adds and rectifies in place."""

    def __init__(self, taken: int, given: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(taken, given, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(given)
        self.conv2 = nn.Conv2d(given, given, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(given)
        self.relu = nn.ReLU(inplace=True)
        self.down = None
        if stride != 1 or taken != given:
            self.down = nn.Sequential(nn.Conv2d(taken, given, 1, stride, bias=False), nn.BatchNorm2d(given))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x)))))
        y += x if self.down is None else self.down(x)
        return self.relu(y)


class ResNet(nn.Module):
    """ResNet-18 with ``width`` channels."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU(True))
        self.pool = nn.MaxPool2d(3, 2, 1)
        sizes = [width, width, 2 * width, 4 * width, 8 * width]
        stages = [(a, b, 1 if k == 0 else 2) for k, (a, b) in enumerate(pairwise(sizes))]
        self.layers = nn.Sequential(*[nn.Sequential(Basic(a, b, s), Basic(b, b, 1)) for a, b, s in stages])
        self.head = nn.Linear(8 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.adaptive_avg_pool2d(self.layers(self.pool(self.stem(x))), 1).flatten(1))


class Encoder(nn.Module):
    """A pre-norm transformer block; causal or not, attention fused or written out."""

    def __init__(self, width: int, heads: int, causal: bool, fused: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down, self.act = nn.Linear(width, 4 * width), nn.Linear(4 * width, width), nn.GELU()
        self.heads, self.causal, self.fused = heads, causal, fused

    def attention(self, x: Tensor) -> Tensor:
        rows, tokens, width = x.shape
        q, k, v = (part.view(rows, tokens, self.heads, -1).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        if self.fused:
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        else:
            scores = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5
            if self.causal:
                scores = scores.masked_fill(torch.ones(tokens, tokens, device=x.device).triu(1).bool(), float("-inf"))
            mixed = scores.softmax(-1) @ v
        return self.proj(mixed.transpose(1, 2).reshape(rows, tokens, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.down(self.act(self.up(self.norm2(x))))


class ViT(nn.Module):
    """A vision transformer: the class token is an expanded parameter."""

    def __init__(self, width: int = 32, fused: bool = True) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, width, 8, 8)
        self.token = nn.Parameter(torch.randn(1, 1, width) * 0.1)
        self.place = nn.Parameter(torch.randn(1, 17, width) * 0.1)
        self.blocks = nn.Sequential(*[Encoder(width, 2, False, fused) for _ in range(2)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.place
        return self.head(self.norm(self.blocks(x))[:, 0])


class GPT(nn.Module):
    """A causal decoder over embedded tokens, shape (batch, 24, width)."""

    def __init__(self, width: int = 32, fused: bool = True) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.randn(24, width) * 0.1)
        self.blocks = nn.Sequential(*[Encoder(width, 2, True, fused) for _ in range(2)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 50, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(x + self.place)))[:, -1]


class Inverted(nn.Module):
    """MobileNetV2's block: expand, depthwise, project."""

    def __init__(self, taken: int, given: int, stride: int) -> None:
        super().__init__()
        wide = 4 * taken
        self.wide = nn.Sequential(nn.Conv2d(taken, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6(True))
        deep = nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False)
        self.deep = nn.Sequential(deep, nn.BatchNorm2d(wide), nn.ReLU6(True))
        self.thin = nn.Sequential(nn.Conv2d(wide, given, 1, bias=False), nn.BatchNorm2d(given))
        self.same = stride == 1 and taken == given

    def forward(self, x: Tensor) -> Tensor:
        y = self.thin(self.deep(self.wide(x)))
        return x + y if self.same else y


class MobileNetV2(nn.Module):
    """The shape of MobileNetV2, narrow and shallow."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6(True))
        self.blocks = nn.Sequential(Inverted(8, 8, 1), Inverted(8, 16, 2), Inverted(16, 16, 1), Inverted(16, 24, 2))
        self.head = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "resnet": (ResNet, (3, 48, 48)),
    "vit": (ViT, (3, 32, 32)),
    "vit-explicit": (lambda: ViT(fused=False), (3, 32, 32)),
    "gpt": (GPT, (24, 32)),
    "gpt-explicit": (lambda: GPT(fused=False), (24, 32)),
    "mobilenet-v2": (MobileNetV2, (3, 32, 32)),
    "simplenet": (lambda: build_architecture("simplenet:channels=8", seed=0), (3, 32, 32)),
}


def build(name: str) -> tuple[nn.Module, Tensor]:
    """Return a net in evaluation mode with lively norms, and three samples."""
    maker, shape = NETS[name]
    generator = torch.Generator().manual_seed(5)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(4)
        model = maker().eval()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2)
                module.bias.normal_(0, 0.2)
    return model, torch.randn(3, *shape, generator=generator)
