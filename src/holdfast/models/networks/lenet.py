"""LeNet-5 with ReLU (LeCun et al., 1998), as commonly used on MNIST."""

from __future__ import annotations

from torch import nn

from holdfast.models.card import card
from holdfast.models.catalogue import architectures


@architectures.register("lenet")
def lenet(classes: int = 10, channels_in: int = 1) -> nn.Module:
    """Build LeNet-5 for 28x28 images: input (batch, channels_in, 28, 28), output (batch, classes)."""
    model = nn.Sequential(
        nn.Conv2d(channels_in, 6, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(400, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, classes),
    )
    card(model).input_shape = (channels_in, 28, 28)
    return model
