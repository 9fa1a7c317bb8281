"""The linear layers of ResNet-18 at 224x224 and of VGG-19, as shapes with full-range random codes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast.seeds import derive
from holdfast.shielding.product import Geometry, integer_product


@dataclass(frozen=True)
class Layer:
    """``count`` layers of one shape."""

    name: str
    count: int
    geometry: Geometry
    sample: tuple[int, ...]

    def operands(self, batch: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return inputs after a ReLU (0 .. 127), weights, and their product."""
        generator = derive(0, "benchmark", self.name).torch()
        codes = torch.randint(-127, 128, self.geometry.weight_shape, generator=generator, dtype=torch.int8)
        x = torch.randint(0, 128, (batch, *self.sample), generator=generator, dtype=torch.int8)
        return x, codes, integer_product(x, codes, self.geometry)


def conv(count: int, inputs: int, outputs: int, side: int, kernel: int, stride: int) -> Layer:
    """Return a convolution that pads to keep its size but for the stride."""
    geometry = Geometry(
        kind="conv2d",
        in_channels=inputs,
        out_channels=outputs,
        kernel=(kernel, kernel),
        stride=(stride, stride),
        padding=(kernel // 2,) * 4,
    )
    return Layer(f"{inputs}->{outputs}@{side} k{kernel}s{stride}", count, geometry, (inputs, side, side))


def linear(inputs: int, outputs: int) -> Layer:
    """Return a linear layer."""
    geometry = Geometry(kind="linear", in_channels=inputs, out_channels=outputs)
    return Layer(f"linear {inputs}x{outputs}", 1, geometry, (inputs,))


STEM = conv(1, 3, 64, 224, 7, 2)
CONVOLUTIONS = [
    conv(4, 64, 64, 56, 3, 1),
    conv(1, 64, 128, 56, 3, 2),
    conv(1, 64, 128, 56, 1, 2),
    conv(3, 128, 128, 28, 3, 1),
    conv(1, 128, 256, 28, 3, 2),
    conv(1, 128, 256, 28, 1, 2),
    conv(3, 256, 256, 14, 3, 1),
    conv(1, 256, 512, 14, 3, 2),
    conv(1, 256, 512, 14, 1, 2),
    conv(3, 512, 512, 7, 3, 1),
]
HEAD = linear(512, 1000)
LINEARS = [linear(25088, 4096), linear(4096, 4096), linear(768, 3072), HEAD]
