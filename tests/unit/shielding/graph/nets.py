"""Small networks for the exporter, and those that it must refuse."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from holdfast.models import build_architecture


class MobileNet(nn.Module):
    """Inverted residual, squeeze and excitation, grouped and strided convolutions, a norm that nothing precedes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.Hardswish())
        self.expand = nn.Sequential(nn.Conv2d(8, 24, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU6(inplace=True))
        self.depthwise = nn.Sequential(nn.Conv2d(24, 24, 3, 1, 1, groups=24, bias=False), nn.BatchNorm2d(24))
        self.squeeze, self.excite = nn.Conv2d(24, 6, 1), nn.Conv2d(6, 24, 1)
        self.project = nn.Conv2d(24, 8, 1)
        self.norm = nn.BatchNorm2d(8)
        self.grouped = nn.Conv2d(8, 12, 3, padding="same", groups=2)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = F.relu6(self.depthwise(self.expand(x)))
        y = y * torch.sigmoid(self.excite(F.silu(self.squeeze(y.mean((2, 3), keepdim=True)))))
        x = torch.add(x, self.project(y), alpha=0.5)
        x = self.grouped(F.avg_pool2d(F.relu(self.norm(x)), 3, 2, 1))
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


class FusedAttention(nn.Module):
    """What timm and transformers write: fused attention, causal or masked, with fewer keys than queries' heads."""

    def __init__(self, mask: str) -> None:
        super().__init__()
        self.mask = mask
        self.q, self.k, self.v = nn.Linear(12, 12), nn.Linear(12, 6), nn.Linear(12, 6)
        self.norm, self.out = nn.RMSNorm(12), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        q, k, v = (part(x).view(batch, tokens, -1, 3).transpose(1, 2) for part in (self.q, self.k, self.v))
        open_ = torch.ones(tokens, tokens, dtype=torch.bool).tril()
        given = {"causal": None, "bool": open_, "float": torch.zeros(tokens, tokens).masked_fill(~open_, -torch.inf)}
        mixed = F.scaled_dot_product_attention(
            q, k, v, attn_mask=given[self.mask], is_causal=self.mask == "causal", enable_gqa=True
        )
        return self.out(self.norm(mixed.transpose(1, 2).reshape(batch, tokens, 12)))


class Branching(nn.Module):
    """Looks at a value to decide."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return self.fc(x)
        return self.fc(-x)


class Sorting(nn.Module):
    """Uses an operation without exact form, deep inside."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.inner = nn.Linear(4, 4), nn.Sequential(nn.Identity(), _Sort())

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.inner(x))


class _Sort(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cumprod(x, 1)


class FixedBatch(nn.Module):
    """Works for two samples only."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.view(2, 4))


class AcrossSamples(nn.Module):
    """Subtracts the mean of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x - x.mean(0, keepdim=True))


def seeded(make: object, seed: int = 0) -> nn.Module:
    """Build a module with weights and batch statistics from a seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net: nn.Module = make()  # type: ignore[operator]
        for part in net.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean.uniform_(-0.2, 0.2)
                part.running_var.uniform_(0.5, 2.0)
                nn.init.uniform_(part.weight, 0.5, 1.5)
                nn.init.uniform_(part.bias, -0.5, 0.5)
            elif isinstance(part, nn.Linear) and not part.weight.any():  # a head that starts at zero says nothing
                nn.init.normal_(part.weight, std=0.02)
    return net.eval()


NETS = {
    "mobilenet": (lambda: seeded(MobileNet), (3, 16, 16)),
    "vit": (lambda: build_architecture("vit-tiny:depth=2,dim=32"), (3, 32, 32)),
    "llama": (lambda: build_architecture("llama:layers=2,dim=32,inner=48,heads=4,groups=2,tied=false"), (12,)),
    "causal": (lambda: seeded(lambda: FusedAttention("causal")), (7, 12)),
    "bool": (lambda: seeded(lambda: FusedAttention("bool")), (7, 12)),
    "float": (lambda: seeded(lambda: FusedAttention("float")), (7, 12)),
}


def inputs(name: str, count: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if name == "llama":
        return torch.randint(0, 512, (count, *NETS[name][1]), generator=generator)
    return torch.randn(count, *NETS[name][1], generator=generator)
