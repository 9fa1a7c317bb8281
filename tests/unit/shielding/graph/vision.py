"""torchvision and timm for tests, also where torchvision's own operators were built for another torch."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

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


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet18": lambda: library("torchvision").models.resnet18(),
    "vgg19": lambda: library("torchvision").models.vgg19(),
    "mobilenet_v2": lambda: library("torchvision").models.mobilenet_v2(),
    "vit_small": lambda: library("timm").create_model("vit_small_patch16_224"),
}
