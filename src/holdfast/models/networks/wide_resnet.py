"""Wide residual networks (Zagoruyko & Komodakis, BMVC 2016) for CIFAR: pre-activation blocks in three stages."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from holdfast.errors import InvalidConfig
from holdfast.models.card import card
from holdfast.models.catalogue import architectures
from holdfast.models.networks.initial import kaiming
from holdfast.models.norms import norm_layer
from holdfast.models.whitening import Whitening


class PreActivationBlock(nn.Module):
    """norm-ReLU-conv twice, plus the input; a 1x1 convolution stands on the shortcut where shapes change."""

    def __init__(self, taken: int, given: int, stride: int, norm: str) -> None:
        super().__init__()
        self.norm1 = norm_layer(norm, taken)
        self.conv1 = nn.Conv2d(taken, given, 3, stride, padding=1)
        self.norm2 = norm_layer(norm, given)
        self.conv2 = nn.Conv2d(given, given, 3, padding=1)
        same = taken == given and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(taken, given, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(F.relu(self.norm1(x)))
        out = self.conv2(F.relu(self.norm2(out)))
        return out + self.shortcut(x)  # type: ignore[no-any-return]


class WideResNet(nn.Module):
    """Input (batch, channels_in, size, size), output logits (batch, classes)."""

    def __init__(self, blocks: int, stem: int, widths: tuple[int, ...], channels_in: int, classes: int, norm: str):
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, stem, 3, padding=1)
        taken = (stem, *widths)
        stages = [_stage(taken[i], width, blocks, 1 + (i > 0), norm) for i, width in enumerate(widths)]
        self.stages = nn.Sequential(*stages)
        self.norm = norm_layer(norm, widths[-1])
        self.linear = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.norm(self.stages(self.conv1(x))))
        return self.linear(out.mean((2, 3)))  # type: ignore[no-any-return]


def _stage(taken: int, given: int, blocks: int, stride: int, norm: str) -> nn.Sequential:
    first = PreActivationBlock(taken, given, stride, norm)
    return nn.Sequential(first, *(PreActivationBlock(given, given, 1, norm) for _ in range(blocks - 1)))


@architectures.register("wide-resnet")
def wide_resnet(
    classes: int = 100,
    depth: int = 28,
    widen: int = 10,
    channels: int = 16,
    channels_in: int = 3,
    size: int = 32,
    norm: str = "bn",
    whitening: bool = False,
) -> nn.Module:
    """Build WRN-``depth``-``widen``; Stutz et al. use ``channels=12,norm=regn,whitening=true`` on CIFAR-100.

    Args:
        classes: logits.
        depth: layers with weights, 6n + 4.
        widen: factor on the widths of the three stages.
        channels: of the first convolution; the stages have 1, 2 and 4 times as many, times ``widen``.
        channels_in: of the images.
        size: of the images.
        norm: one of :data:`holdfast.models.norms.NORMS`.
        whitening: begin with a :class:`~holdfast.models.whitening.Whitening` layer over images in 0..1.

    Raises:
        UnknownName: no such norm.
        InvalidConfig: another depth, or nothing to count.
    """
    blocks, rest = divmod(depth - 4, 6)
    if blocks < 1 or rest:
        raise InvalidConfig(f"a wide residual net has 6n + 4 layers, not {depth}", hint="for example depth=28")
    if min(classes, widen, channels, channels_in, size) < 1:
        raise InvalidConfig("classes, widths and sizes are positive")
    widths = tuple(channels * widen * factor for factor in (1, 2, 4))
    net = kaiming(WideResNet(blocks, channels, widths, channels_in, classes, norm), "fan_out")
    model = nn.Sequential(Whitening(channels_in), net) if whitening else net
    card(model).input_shape = (channels_in, size, size)
    return model
