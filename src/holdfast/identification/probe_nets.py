"""Six fixed nets and their inputs, made by integer arithmetic, so that every machine makes the same bits.

Random numbers of a framework are no base for a library: ``torch.randn`` itself returns other bits under another
instruction set. Here every weight is a 16-bit integer from the BLAKE3 output stream, keyed by net and tensor name,
times a power of two, which float32 holds exactly; pixels are bytes of the same stream.

Five nets are the usual kinds (perceptron, plain, residual and depthwise-separable convolutions, transformer). The sixth
reduces globally over 786 432 products and runs a 1x1 convolution of 4096 channels: batches of small nets do not show
how many threads computed them, and these do.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from blake3 import blake3
from torch import Tensor, nn
from torch.nn import functional as F

from holdfast.data import Dataset, Preprocessing
from holdfast.data.dataset import UNLABELLED
from holdfast.data.probes import require_room
from holdfast.models import build_architecture, card

SHAPE = (3, 16, 16)
CLASSES = 10
_CONTEXT = "holdfast 2026 probe nets v1"
_SPREAD = 1024  # products per pixel in the global reductions


def probe_net(name: str) -> nn.Module:
    """Return one of :data:`PROBE_NETS` in evaluation mode.

    Raises:
        UnknownName: there is none of this name.
    """
    from holdfast._registry import unknown

    if name not in PROBE_NETS:
        raise unknown("probe net", name, PROBE_NETS)
    model = build_architecture(f"{__name__}:{PROBE_NETS[name].__name__}")
    card(model).input_shape = SHAPE
    return model.eval()


def probe_inputs(count: int, shape: tuple[int, ...] = SHAPE) -> Dataset:
    """Return the first ``count`` inputs, shape (count, channels, height, width), of an endless fixed list.

    Raises:
        InvalidConfig: fewer than one, a shape other than (channels, height, width), or more than memory holds.
    """
    require_room(count, shape)
    size = math.prod(shape)
    raw = np.frombuffer(_stream("inputs", count * size), dtype=np.uint8).reshape(count, *shape).copy()
    labels = torch.full((count,), UNLABELLED)
    return Dataset("probes/fixed", torch.from_numpy(raw), labels, (), Preprocessing(1 / 256))  # exact in binary


def _stream(key: str, count: int) -> bytes:
    return blake3(key.encode(), derive_key_context=_CONTEXT).digest(length=count)


def _filled(net: str, model: nn.Module) -> nn.Module:
    """Overwrite every weight and statistic by name."""
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(_values(f"{net}/{name}", tensor))
    return model


def _values(key: str, like: Tensor) -> Tensor:
    """Return multiples of 2^-15 in -1..1, scaled by a power of two to the size such a tensor has in a trained net."""
    words = np.frombuffer(_stream(key, 2 * like.numel()), dtype="<u2").astype(np.int32) - 32768
    unit = torch.from_numpy(words).float().reshape(like.shape) / 32768
    if like.dim() > 1:
        return unit * 2.0 ** -((math.prod(like.shape[1:]) // 6).bit_length() // 2)  # about (6 / fan-in)^(1/2)
    if key.endswith(("running_var", "norm.weight")):
        return 1 + unit / 4
    return unit / 16


class Block(nn.Module):
    """Convolution, batch norm, and a rectifier where one is named."""

    def __init__(self, ins: int, outs: int, size: int, *, stride: int = 1, groups: int = 1, act: str = "") -> None:
        super().__init__()
        self.conv = nn.Conv2d(ins, outs, size, stride, size // 2, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outs)
        self.act = {"": nn.Identity, "relu": nn.ReLU, "relu6": nn.ReLU6}[act]()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x)))  # type: ignore[no-any-return]


class Residual(nn.Module):
    """Basic block of a ResNet (He et al., 2016)."""

    def __init__(self, ins: int, outs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(Block(ins, outs, 3, stride=stride, act="relu"), Block(outs, outs, 3))
        self.skip = nn.Identity() if ins == outs else Block(ins, outs, 1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.skip(x))


class Inverted(nn.Module):
    """Inverted residual of a MobileNetV2 (Sandler et al., 2018)."""

    def __init__(self, ins: int, outs: int, stride: int) -> None:
        super().__init__()
        wide = 4 * ins
        depthwise = Block(wide, wide, 3, stride=stride, groups=wide, act="relu6")
        self.body = nn.Sequential(Block(ins, wide, 1, act="relu6"), depthwise, Block(wide, outs, 1))
        self.same = ins == outs and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.same else self.body(x)  # type: ignore[no-any-return]


class Encoder(nn.Module):
    """Pre-norm transformer layer with 4 heads."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first_norm, self.second_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        both = self.qkv(self.first_norm(x))
        q, k, v = (_heads(both[:, :, start : start + 64]) for start in (0, 64, 128))
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.out(mixed)
        return x + self.down(F.gelu(self.up(self.second_norm(x)), approximate="tanh"))  # type: ignore[no-any-return]


def _heads(x: Tensor) -> Tensor:
    return x.unflatten(-1, (4, 16)).transpose(1, 2)  # type: ignore[no-any-return]


class Transformer(nn.Module):
    """Four encoders over 64 patches, averaged; fewer would not fill a vector of AVX-512 in the attention."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.head = nn.Conv2d(3, 64, 2, 2), nn.Linear(64, CLASSES)
        self.layers = nn.Sequential(*(Encoder(64) for _ in range(4)))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        return self.head(self.layers(tokens).mean(1))  # type: ignore[no-any-return]


class Reductions(nn.Module):
    """Long sums and products of one image at a time, and a wide 1x1 convolution: what depends on the thread count."""

    def __init__(self) -> None:
        super().__init__()
        self.spread = nn.Parameter(torch.empty(1, _SPREAD))
        self.widen = nn.Conv2d(3, 4096, 1)
        self.narrow = nn.Conv2d(4096, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        long = torch.stack([self._long(row) for row in x.unbind()])
        return torch.cat((long, self.narrow(self.widen(x[:, :, :4, :4])).flatten(2)[:, :, 0]), 1)

    def _long(self, row: Tensor) -> Tensor:
        products = (row.reshape(-1, 1) * self.spread).reshape(-1)
        parts = (products, products * products, products[: 1 << 19], products[1 << 18 :])
        dots = torch.dot(products, products), torch.dot(products[: 1 << 18], products[1 << 18 : 1 << 19])
        return torch.stack([*(part.sum() for part in parts), *dots])


def mlp() -> nn.Module:
    """Three linear layers."""
    layers = (nn.Flatten(), nn.Linear(768, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, CLASSES))
    return _filled("mlp", nn.Sequential(*layers))


def cnn() -> nn.Module:
    """Three convolutions with biases, and a linear layer."""
    convolutions = (nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(),
                    nn.MaxPool2d(2), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))  # fmt: skip
    return _filled("cnn", nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(1024, CLASSES)))


def resnet() -> nn.Module:
    """Stem and four residual blocks."""
    blocks = (Residual(16, 16, 1), Residual(16, 32, 2), Residual(32, 32, 1), Residual(32, 64, 2))
    return _filled("resnet", nn.Sequential(Block(3, 16, 3, act="relu"), *blocks, *_pooled(64)))


def mobilenet() -> nn.Module:
    """Stem and four inverted residuals."""
    blocks = (Inverted(16, 16, 1), Inverted(16, 24, 2), Inverted(24, 24, 1), Inverted(24, 32, 2))
    return _filled("mobilenet", nn.Sequential(Block(3, 16, 3, act="relu6"), *blocks, *_pooled(32)))


def transformer() -> nn.Module:
    """Patches and four encoders."""
    return _filled("transformer", Transformer())


def reductions() -> nn.Module:
    """Global reductions and a wide convolution."""
    return _filled("reductions", Reductions())


def _pooled(width: int) -> tuple[nn.Module, ...]:
    return nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, CLASSES)


PROBE_NETS: dict[str, Callable[[], nn.Module]] = {
    make.__name__: make for make in (mlp, cnn, resnet, mobilenet, transformer, reductions)
}
