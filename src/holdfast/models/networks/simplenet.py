"""SimpleNet as Stutz et al. (MLSys 2021) use it: 13 convolutions with norm and ReLU, max pooling, one linear layer."""

from __future__ import annotations

from torch import nn

from holdfast.errors import InvalidConfig
from holdfast.models.card import card
from holdfast.models.catalogue import architectures
from holdfast.models.networks.initial import kaiming
from holdfast.models.norms import norm_layer
from holdfast.models.whitening import Whitening


def _plan(c: int, size: int) -> list[tuple[int, int]]:
    """Return (channels, kernel) in order, (0, 0) for pooling; 32x32 inputs have one stage more than smaller ones."""
    widths = [c, 2 * c, 2 * c, 2 * c, 0, 2 * c, 2 * c, 4 * c, 0]
    widths += [4 * c, 4 * c, 0, 8 * c, 0] if size >= 32 else [8 * c, 0]
    plan = [(width, 3) if width else (0, 0) for width in widths]
    return [*plan, (32 * c, 1), (4 * c, 1), (0, 0), (4 * c, 3)]


@architectures.register("simplenet")
def simplenet(
    classes: int = 10,
    channels: int = 64,
    channels_in: int = 3,
    size: int = 32,
    norm: str = "gn",
    whitening: bool = False,
) -> nn.Module:
    """Build SimpleNet: input (batch, channels_in, size, size), output (batch, classes).

    ``channels=64`` on 32x32 colour images gives the paper's 5,498,378 weights, ``channels=32,channels_in=1,size=28``
    the 1,082,826 of its MNIST net; the paper's results are of ``norm=regn,whitening=true``.

    Args:
        classes: logits.
        channels: feature maps of the first convolution.
        channels_in: of the images.
        size: of the images; those below 32 pixels have one stage less.
        norm: one of :data:`holdfast.models.norms.NORMS`.
        whitening: begin with a :class:`~holdfast.models.whitening.Whitening` layer over images in 0..1.

    Raises:
        UnknownName: no such norm.
        InvalidConfig: a size or a count below one.
    """
    if min(classes, channels, channels_in, size) < 1:
        raise InvalidConfig("classes, channels and sizes are positive")
    layers: list[nn.Module] = [Whitening(channels_in)] if whitening else []
    width = channels_in
    for given, kernel in _plan(channels, size):
        if not given:
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
            continue
        layers += [nn.Conv2d(width, given, kernel, padding=kernel // 2), norm_layer(norm, given), nn.ReLU()]
        width = given
    model = nn.Sequential(*layers, nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(width, classes))
    card(model).input_shape = (channels_in, size, size)
    return kaiming(model, "fan_in")
