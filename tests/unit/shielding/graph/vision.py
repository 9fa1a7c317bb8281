"""Networks of real size for tests; torchvision's also where its own operators were built for another torch."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

_DECLARED: list[Any] = []
_OPERATORS = tuple(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor" for name in ("nms", "qnms"))


def library(name: str) -> Any:
    """Return torchvision or timm, or skip the test."""
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed; pip install {name}")
    if not hasattr(torch.ops.torchvision, "nms") and not _DECLARED:
        # importing torchvision registers a fake of nms, which must exist by then; no test computes it
        _DECLARED.append(torch.library.Library("torchvision", "DEF"))
        for operator in _OPERATORS:
            _DECLARED[0].define(operator)
    return importlib.import_module(name)


class Logits(nn.Module):
    """A classifier of transformers as one tensor in, one tensor out."""

    def __init__(self, family: str, **options: Any) -> None:
        super().__init__()
        transformers = pytest.importorskip("transformers", reason="pip install 'holdfast[hf]'")
        config = getattr(transformers, f"{family}Config")(**options)
        self.net = getattr(transformers, f"{family}ForImageClassification")(config)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(pixel_values=x).logits  # type: ignore[no-any-return]


def vgg19() -> nn.Module:
    """VGG-19 (Simonyan & Zisserman 2015, configuration E)."""
    layers: list[nn.Module] = []
    before = 3
    for width, count in ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4)):
        for _ in range(count):
            layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()]
            before = width
        layers.append(nn.MaxPool2d(2))
    head = (nn.Linear(512 * 49, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 1000))
    return nn.Sequential(*layers, nn.Flatten(), *head)


_BASIC = {"layer_type": "basic", "hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 2, 2], "embedding_size": 64}
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet18": lambda: Logits("ResNet", **_BASIC),
    "vgg19": vgg19,
    "mobilenet_v2": lambda: Logits("MobileNetV2"),
    "vit_small": lambda: Logits("ViT", hidden_size=384, num_attention_heads=6, intermediate_size=1536),
    "torchvision:resnet18": lambda: library("torchvision").models.resnet18(),
    "torchvision:mobilenet_v2": lambda: library("torchvision").models.mobilenet_v2(),
    "timm:vit_small": lambda: library("timm").create_model("vit_small_patch16_224"),
}
