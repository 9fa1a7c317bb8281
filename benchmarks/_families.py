"""Nets of the families in which guards are placed, with random weights, and the branches their configuration has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


class Logits(nn.Module):
    """A net of transformers that returns its logits, of one argument."""

    def __init__(self, inner: nn.Module, name: str = "pixel_values") -> None:
        super().__init__()
        self.inner, self.name = inner, name

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(**{self.name: x}).logits


@dataclass(frozen=True)
class Family:
    """One net, one sample of its input, and the number of branches that its configuration says it has.

    ``struck`` nets are small enough to be run once for each strike at each branch.
    """

    name: str
    build: Callable[[], nn.Module]
    example: Callable[[], Tensor]
    branches: int
    struck: bool = True


def vit_base() -> nn.Module:
    """ViT-B/16 at 224 pixels."""
    from transformers import ViTConfig, ViTForImageClassification

    return _seeded(lambda: Logits(ViTForImageClassification(ViTConfig())))


def resnet18() -> nn.Module:
    """ResNet-18 at 224 pixels."""
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(layer_type="basic", hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], embedding_size=64)
    return _seeded(lambda: Logits(ResNetForImageClassification(config)))


def _vit() -> nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(hidden_size=48, num_attention_heads=3, intermediate_size=96, image_size=64)
    return _seeded(lambda: Logits(ViTForImageClassification(config)))


def _swinv2() -> nn.Module:
    from transformers import Swinv2Config, Swinv2ForImageClassification

    config = Swinv2Config(image_size=64, window_size=4, embed_dim=24, num_heads=[1, 2, 4, 8], drop_path_rate=0.1)
    return _seeded(lambda: Logits(Swinv2ForImageClassification(config)))


def _gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=97, n_positions=32, n_embd=48, n_layer=12, n_head=3, use_cache=False)
    return _seeded(lambda: Logits(GPT2LMHeadModel(config), "input_ids"))


def _timm(name: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import timm

        return _seeded(lambda: timm.create_model(name))

    return build


def _seeded(build: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build().eval()


def _pixels(size: int) -> Callable[[], Tensor]:
    return lambda: torch.rand(3, size, size, generator=torch.Generator().manual_seed(0))


# two branches per block; ResNet-18 has eight and three projected shortcuts; each of MaxViT's eleven blocks has one
# convolutional and four transformer branches, and three blocks project their shortcut
FAMILIES = (
    Family("vit (12 blocks)", _vit, _pixels(64), 24),
    Family("swinv2 (12 blocks, paths dropped)", _swinv2, _pixels(64), 24),
    Family("resnet-18", resnet18, _pixels(64), 11),
    Family("gpt-2 (12 blocks)", _gpt2, lambda: torch.arange(16) % 97, 24),
    Family("maxvit of timm (11 blocks)", _timm("maxvit_tiny_tf_224"), _pixels(224), 58, struck=False),
    Family("eva02 of timm (12 blocks)", _timm("eva02_tiny_patch14_336"), _pixels(336), 24, struck=False),
    Family("swinv2 of timm (12 blocks)", _timm("swinv2_tiny_window8_256"), _pixels(256), 24, struck=False),
)
