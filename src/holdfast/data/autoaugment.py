"""AutoAugment's policy for CIFAR-10 (Cubuk et al., CVPR 2019, table of sub-policies), batched.

Stutz et al. (MLSys 2021) use it for CIFAR-10 and CIFAR-100 alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from holdfast.data import augmentation_ops as ops
from holdfast.data.augmentation import augmentations, filled
from holdfast.data.dataset import Preprocessing
from holdfast.seeds import Seed

Sub = tuple[str, float, int]  # operation, probability, level 0..9

CIFAR10_POLICY: tuple[tuple[Sub, Sub], ...] = (
    (("invert", 0.1, 7), ("contrast", 0.2, 6)),
    (("rotate", 0.7, 2), ("translate-x", 0.3, 9)),
    (("sharpness", 0.8, 1), ("sharpness", 0.9, 3)),
    (("shear-y", 0.5, 8), ("translate-y", 0.7, 9)),
    (("autocontrast", 0.5, 8), ("equalize", 0.9, 2)),
    (("shear-y", 0.2, 7), ("posterize", 0.3, 7)),
    (("color", 0.4, 3), ("brightness", 0.6, 7)),
    (("sharpness", 0.3, 9), ("brightness", 0.7, 9)),
    (("equalize", 0.6, 5), ("equalize", 0.5, 1)),
    (("contrast", 0.6, 7), ("sharpness", 0.6, 5)),
    (("color", 0.7, 7), ("translate-x", 0.5, 8)),
    (("equalize", 0.3, 7), ("autocontrast", 0.4, 8)),
    (("translate-y", 0.4, 3), ("sharpness", 0.2, 6)),
    (("brightness", 0.9, 6), ("color", 0.2, 8)),
    (("solarize", 0.5, 2), ("invert", 0.0, 3)),
    (("equalize", 0.2, 0), ("autocontrast", 0.6, 0)),
    (("equalize", 0.2, 8), ("equalize", 0.6, 4)),
    (("color", 0.9, 9), ("equalize", 0.6, 6)),
    (("autocontrast", 0.8, 4), ("solarize", 0.2, 8)),
    (("brightness", 0.1, 3), ("color", 0.7, 0)),
    (("solarize", 0.4, 5), ("autocontrast", 0.9, 3)),
    (("translate-y", 0.9, 9), ("translate-y", 0.7, 9)),
    (("autocontrast", 0.9, 2), ("solarize", 0.8, 3)),
    (("equalize", 0.8, 8), ("invert", 0.1, 3)),
    (("translate-y", 0.7, 9), ("autocontrast", 0.9, 1)),
)

_TOP = 9  # level of the full strength
_TRANSLATION = 150 / 331  # of the side: 150 pixels of the 331 the policy was first written for
_GREY = (128.0,)  # what rotation uncovers, in every channel


def operate(name: str, images: Tensor, level: Tensor, sign: Tensor, fill: Tensor) -> Tensor:
    """Return ``images`` after operation ``name``.

    Args:
        name: one of :data:`OPERATIONS`.
        images: whole levels 0..255, float (n, channels, height, width).
        level: 0..9 for each image, float64 (n,); the policy's own unit of strength.
        sign: +1 or -1 for each image, float64 (n,), where a strength has two directions.
        fill: levels for uncovered space, (1, channels, 1, 1).
    """
    return OPERATIONS[name](images, level / _TOP, sign, fill)


def _translate_x(images: Tensor, share: Tensor, sign: Tensor, fill: Tensor) -> Tensor:
    shift = sign * share * _TRANSLATION * images.shape[3]
    return ops.translate(images, shift, torch.zeros_like(shift), fill)


def _translate_y(images: Tensor, share: Tensor, sign: Tensor, fill: Tensor) -> Tensor:
    shift = sign * share * _TRANSLATION * images.shape[2]
    return ops.translate(images, torch.zeros_like(shift), shift, fill)


def _enhance(share: Tensor, sign: Tensor) -> Tensor:
    return 1 + sign * 0.9 * share


OPERATIONS: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "shear-x": lambda x, share, sign, fill: ops.shear(x, sign * 0.3 * share, torch.zeros_like(share), fill),
    "shear-y": lambda x, share, sign, fill: ops.shear(x, torch.zeros_like(share), sign * 0.3 * share, fill),
    "translate-x": _translate_x,
    "translate-y": _translate_y,
    "rotate": lambda x, share, sign, _: ops.rotate(x, sign * 30 * share, filled(x, _GREY)),
    "color": lambda x, share, sign, _: ops.color(x, _enhance(share, sign)),
    "contrast": lambda x, share, sign, _: ops.contrast(x, _enhance(share, sign)),
    "brightness": lambda x, share, sign, _: ops.brightness(x, _enhance(share, sign)),
    "sharpness": lambda x, share, sign, _: ops.sharpness(x, _enhance(share, sign)),
    "posterize": lambda x, share, _, __: ops.posterize(x, (8 - 4 * share).round()),
    "solarize": lambda x, share, _, __: ops.solarize(x, 256 * (1 - share)),
    "autocontrast": lambda x, _, __, ___: ops.autocontrast(x),
    "equalize": lambda x, _, __, ___: ops.equalize(x),
    "invert": lambda x, _, __, ___: ops.invert(x),
}


@augmentations.register("auto-augment")
@dataclass(frozen=True, kw_only=True)
class AutoAugment:
    """Each image meets one of the 25 sub-policies, drawn evenly: two operations, each with its own probability.

    Operations work on levels 0..255, so the preprocessing is undone before and done again after. Geometry takes the
    nearest pixel.
    """

    preprocessing: Preprocessing = field(default_factory=Preprocessing)  # of the images; pixels are in 0..1 before it
    fill: tuple[float, ...] = (0.0,)  # network input, one or one per channel

    def __call__(self, images: Tensor, seed: Seed) -> Tensor:
        """Return each image after its sub-policy."""
        return self.apply(images, *self.draw(len(images), tuple(images.shape[1:]), seed))

    def draw(self, count: int, shape: tuple[int, ...], seed: Seed) -> tuple[Tensor, ...]:
        """Return sub-policies (count,), what decides whether their steps happen and in which direction (count, 2)."""
        generator = seed.torch()
        chosen = torch.randint(len(CIFAR10_POLICY), (count,), generator=generator)
        drawn = torch.rand(count, 2, generator=generator, dtype=torch.float64)
        sign = torch.randint(2, (count, 2), generator=generator).double() * 2 - 1
        return chosen, drawn, sign

    def apply(self, images: Tensor, *drawn: Tensor) -> Tensor:
        """Return the changed images."""
        chosen, happens, sign = drawn
        levels = self._levels(images)
        fill = self._levels(filled(images, self.fill).expand(1, images.shape[1], 1, 1))
        for place in range(2):
            _operate_all(levels, place, chosen, happens[:, place], sign[:, place], fill)
        return self._inputs(levels).to(images.dtype)

    def _levels(self, inputs: Tensor) -> Tensor:
        pixels = inputs * filled(inputs, self.preprocessing.std) + filled(inputs, self.preprocessing.mean)
        return (pixels.float() * 255).round().clamp(0, 255)

    def _inputs(self, levels: Tensor) -> Tensor:
        return (levels / 255 - filled(levels, self.preprocessing.mean)) / filled(levels, self.preprocessing.std)


def _operate_all(levels: Tensor, place: int, chosen: Tensor, drawn: Tensor, sign: Tensor, fill: Tensor) -> None:
    """Apply operation ``place`` of each image's sub-policy in place, all images of one operation together."""
    subs = [CIFAR10_POLICY[number][place] for number in chosen.tolist()]
    strength = torch.tensor([float(level) for _, _, level in subs], dtype=torch.float64)
    hit = drawn < torch.tensor([probability for _, probability, _ in subs], dtype=torch.float64)
    for name in sorted({operation for operation, _, _ in subs}):
        same = torch.tensor([operation == name for operation, _, _ in subs])
        rows = (hit & same).nonzero().squeeze(1)
        if len(rows):
            here = rows.to(levels.device)
            level, direction = strength[rows].to(levels.device), sign[rows].to(levels.device)
            levels[here] = operate(name, levels[here], level, direction, fill)
