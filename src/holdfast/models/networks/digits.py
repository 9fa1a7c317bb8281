"""A small residual net for 8x8 digits: big enough to have every kind of site, small enough to train in seconds."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from holdfast.models.card import card
from holdfast.models.catalogue import architectures


class DigitsCNN(nn.Module):
    """Three convolutions with batch norm, one residual addition, one linear layer.

    Input (batch, 1, 8, 8), output logits (batch, classes).
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1, bias=False)
        self.norm3 = nn.BatchNorm2d(2 * channels)
        self.relu = nn.ReLU()
        self.fc = nn.Linear(2 * channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm1(self.conv1(x)))
        x = x + self.relu(self.norm2(self.conv2(x)))
        x = self.relu(self.norm3(self.conv3(x)))
        return self.fc(torch.mean(x, dim=(2, 3)))  # type: ignore[no-any-return]


@architectures.register("digits-cnn")
def digits_cnn(channels: int = 16, classes: int = 10) -> nn.Module:
    """Build the digits net with ``channels`` feature maps (about 7,500 weights at 16)."""
    model = DigitsCNN(channels, classes)
    card(model).input_shape = (1, 8, 8)
    return model
