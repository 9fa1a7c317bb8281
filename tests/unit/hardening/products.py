"""A net with every kind of product that has a checksum, and inputs for it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from holdfast.hardening import harden, methods
from holdfast.models import card
from holdfast.seeds import derive

NARROW = (torch.bfloat16, torch.float16)


class Everything(nn.Module):
    """Every kind of product that has a checksum; the mask is fp32, as masks are, and autocast rounds it too."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.grouped = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 32, 3, stride=2, groups=4, bias=False)
        self.line, self.qkv, self.out = nn.Conv1d(32, 48, 3, padding="same"), nn.Linear(48, 144), nn.Linear(48, 10)
        generator = derive(0, "everything").torch()
        for item in self.parameters():
            item.copy_(torch.randn(item.shape, generator=generator) / max(1, item[0].numel()) ** 0.5)
        self.register_buffer("mask", torch.randn(49, 49, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.grouped(F.relu(self.first(x))))
        q, k, v = self.qkv(self.line(x.flatten(2)).transpose(1, 2)).chunk(3, -1)
        weights = (q @ k.transpose(1, 2) / 7).softmax(-1)
        seen = torch.bmm(weights, v) + F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask)
        return self.out(seen.mean(1))


def everything(action: str = "detect") -> nn.Module:
    model = Everything().eval()
    card(model).input_shape = (3, 16, 16)
    return harden(model, methods.build(f"checksum:action={action}").calibrated(model, None))


def images(number: int, draw: torch.Generator) -> Tensor:
    x = torch.randn(8, 3, 16, 16, generator=draw)
    if number % 5 == 1:
        x[..., ::7] *= 30
    return x.abs() if number % 5 == 2 else x * (1.0, 1.0, 1.0, 10.0, 1e-3)[number % 5]


def alarmed(model: nn.Module) -> dict[str, int]:
    return {guard.site: int(guard.alarms.sum()) for guard in card(model).guards}
