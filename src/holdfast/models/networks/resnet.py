"""CIFAR ResNets (He et al., 2016, section 4.2): 6n+2 layers, three stages, parameter-free option-A shortcuts.

Parameter names are those of ``akamaster/pytorch_resnet_cifar10``, so its published weights load as they are.
"""

from __future__ import annotations

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from holdfast.models.card import card
from holdfast.models.catalogue import architectures


class OptionA(nn.Module):
    """Subsample by two and pad the channels with zeros on both sides."""

    def __init__(self, pad: int) -> None:
        super().__init__()
        self.pad = pad

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.pad, self.pad))


class BasicBlock(nn.Module):
    """conv-norm-ReLU-conv-norm, plus the shortcut, then ReLU."""

    def __init__(self, taken: int, given: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(taken, given, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(given)
        self.conv2 = nn.Conv2d(given, given, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(given)
        self.shortcut = nn.Sequential() if taken == given else OptionA((given - taken) // 2)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out)) + self.shortcut(x)
        return F.relu(out)


class CifarResNet(nn.Module):
    """Input (batch, 3, 32, 32), output logits (batch, classes)."""

    def __init__(self, blocks: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, blocks, 1)
        self.layer2 = _stage(16, 32, blocks, 2)
        self.layer3 = _stage(32, 64, blocks, 2)
        self.linear = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.layer3(self.layer2(self.layer1(out)))
        out = F.avg_pool2d(out, out.shape[3])
        return self.linear(out.flatten(1))  # type: ignore[no-any-return]


def _stage(taken: int, given: int, blocks: int, stride: int) -> nn.Sequential:
    return nn.Sequential(BasicBlock(taken, given, stride), *(BasicBlock(given, given, 1) for _ in range(blocks - 1)))


def _cifar_resnet(depth: int, classes: int = 10) -> nn.Module:
    model = CifarResNet((depth - 2) // 6, classes)
    card(model).input_shape = (3, 32, 32)
    return model


for _depth in (20, 32, 44, 56):
    architectures.register(f"cifar-resnet{_depth}")(partial(_cifar_resnet, _depth))
