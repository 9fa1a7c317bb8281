"""AutoAugment: every operation against Pillow's, the policy against its published frequencies."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from holdfast.data import Preprocessing
from holdfast.data import autoaugment as policy
from holdfast.data.autoaugment import CIFAR10_POLICY, OPERATIONS, AutoAugment, operate
from holdfast.seeds import derive

FILL = (125, 123, 114)


def photos(count: int = 24) -> Tensor:
    """Smooth pictures with noise, some dim, one constant: uint8 levels as float."""
    generator = np.random.default_rng(5)
    coarse = torch.from_numpy(generator.random((count, 3, 5, 5)))
    fine = torch.nn.functional.interpolate(coarse, size=(32, 32), mode="bilinear")
    noise = torch.from_numpy(generator.normal(0, 0.05, (count, 3, 32, 32)))
    levels = ((fine + noise).clamp(0, 1) * 255).round()
    levels[:4] = (levels[:4] / 3 + 40).round()
    levels[4] = 77
    return levels.float()


def pillow(name: str, image: Image.Image, level: int, sign: int) -> Image.Image:
    share, (width, height) = level / 9, image.size
    affine = {
        "shear-x": (1, sign * 0.3 * share, 0, 0, 1, 0),
        "shear-y": (1, 0, 0, sign * 0.3 * share, 1, 0),
        "translate-x": (1, 0, sign * share * 150 / 331 * width, 0, 1, 0),
        "translate-y": (1, 0, 0, 0, 1, sign * share * 150 / 331 * height),
    }
    if name in affine:
        return image.transform(image.size, Image.Transform.AFFINE, affine[name], fillcolor=FILL)
    enhance = {
        "color": ImageEnhance.Color,
        "contrast": ImageEnhance.Contrast,
        "brightness": ImageEnhance.Brightness,
        "sharpness": ImageEnhance.Sharpness,
    }
    if name in enhance:
        return enhance[name](image).enhance(1 + sign * 0.9 * share)
    return {
        "rotate": lambda: image.rotate(sign * 30 * share, fillcolor=(128, 128, 128)),
        "posterize": lambda: ImageOps.posterize(image, round(8 - 4 * share)),
        "solarize": lambda: ImageOps.solarize(image, 256 * (1 - share)),
        "autocontrast": lambda: ImageOps.autocontrast(image),
        "equalize": lambda: ImageOps.equalize(image),
        "invert": lambda: ImageOps.invert(image),
    }[name]()


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_is_pillows(name):
    images = photos()
    fill = torch.tensor(FILL, dtype=torch.float32).view(1, 3, 1, 1)
    for level in range(10):
        sign = torch.tensor([1.0, -1.0]).repeat(12).double()
        found = operate(name, images, torch.full((24,), float(level)).double(), sign, fill)
        pictures = [Image.fromarray(item.permute(1, 2, 0).byte().numpy()) for item in images]
        made = [pillow(name, picture, level, int(s)) for picture, s in zip(pictures, sign, strict=True)]
        wanted = torch.stack([torch.from_numpy(np.array(item)).permute(2, 0, 1) for item in made]).float()
        assert torch.equal(found, wanted), f"level {level}: {(found != wanted).sum()} differ"


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_keep_to_whole_levels_and_work_on_one_channel(name):
    grey = photos()[:, :1]
    sign, level = torch.ones(24).double(), torch.full((24,), 6.0).double()
    out = operate(name, grey, level, sign, torch.full((1, 1, 1, 1), 100.0))
    assert out.shape == grey.shape
    assert torch.equal(out, out.round().clamp(0, 255))


def test_the_policy_holds_25_pairs_of_known_operations():
    assert len(CIFAR10_POLICY) == 25
    for pair in CIFAR10_POLICY:
        for name, probability, level in pair:
            assert name in OPERATIONS
            assert 10 * probability == pytest.approx(round(10 * probability))
            assert level in range(10)


def test_the_policy_is_torchvisions():
    transforms = pytest.importorskip("torchvision.transforms", reason="torchvision is not installed")
    theirs = transforms.AutoAugment(transforms.AutoAugmentPolicy.CIFAR10).policies
    for own, other in zip(CIFAR10_POLICY, theirs, strict=True):
        for (name, probability, level), (their_name, their_probability, their_level) in zip(own, other, strict=True):
            assert name.replace("-", "") == their_name.lower()
            assert probability == their_probability
            assert their_level in (level, None)  # None where the strength means nothing


def test_operations_are_drawn_as_often_as_the_policy_says(monkeypatch):
    drawn: dict[str, int] = {}
    signs: list[float] = []

    def count(name: str, images: Tensor, level: Tensor, sign: Tensor, fill: Tensor) -> Tensor:
        drawn[name] = drawn.get(name, 0) + len(images)
        signs.extend(sign.tolist())
        return images

    monkeypatch.setattr(policy, "operate", count)
    images = 40_000
    AutoAugment()(torch.rand(images, 1, 2, 2, generator=torch.Generator().manual_seed(0)), derive(0))
    for name in OPERATIONS:
        rate = sum(p for pair in CIFAR10_POLICY for other, p, _ in pair if other == name) / 25
        # two draws of one operation in a pair only shrink the variance bound below
        assert abs(drawn.get(name, 0) / images - rate) < 5 * (2 * max(rate, 1e-3) / images) ** 0.5
    assert abs(sum(signs) / len(signs)) < 0.02


def test_preprocessing_is_undone_and_done_again(monkeypatch):
    preprocessing = Preprocessing(1 / 255, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
    levels = photos(6)
    mean, std = (torch.tensor(part).view(1, 3, 1, 1) for part in (preprocessing.mean, preprocessing.std))
    inputs = (levels / 255 - mean) / std
    seen = []

    def negative(name: str, images: Tensor, *_: Tensor) -> Tensor:
        seen.append(images)
        return 255 - images

    subs = ((("invert", 1.0, 0), ("invert", 0.0, 0)),)
    monkeypatch.setattr(policy, "CIFAR10_POLICY", subs)
    monkeypatch.setattr(policy, "operate", negative)
    out = AutoAugment(preprocessing=preprocessing)(inputs, derive(0))
    assert torch.equal(seen[0], levels)
    assert torch.allclose(out, ((255 - levels) / 255 - mean) / std, atol=1e-6)
