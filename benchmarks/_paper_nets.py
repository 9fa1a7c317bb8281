"""The nets of HSPI's tables, and what seven number formats make of noise images on each; outputs are kept in a folder.

Eight architectures of torchvision, as the paper has them, with seeded random weights: its fine-tuned ones were never
published and no pretrained ones are fetched here. Batch statistics are those of noise images and the last layer is
scaled so that logits spread as a trained net's do. The ninth is a real one, a trained CIFAR-10 ResNet-20, where the
shared data is at hand. Images are 32 pixels wide instead of 224.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from holdfast.data import Dataset, Preprocessing, probes
from holdfast.execution import Trace
from holdfast.identification.emulated import emulated_trace
from holdfast.models import build_architecture, load
from holdfast.seeds import derive

TAGS = ("fp32", "bf16", "fp16", "mxint8", "fp8-e3m4", "fp8-e4m3", "int8-dynamic")
TORCHVISION = (
    "vgg16",
    "resnet18",
    "resnet50",
    "mobilenet_v2",
    "efficientnet_b0",
    "densenet121",
    "mobilenet_v3_small",
    "mobilenet_v3_large",
)
TRAINED = "resnet20"
OWN = ("simplenet", "cifar-resnet20")  # with random weights, where torchvision is not installed
SHARED = Path(os.environ.get("HOLDFAST_SHARED", Path(__file__).resolve().parents[2] / "shared")) / "data"
BATCH = 16  # images that share the ranges of int8-dynamic
SPREAD = 3.0  # standard deviation of logits
OWN_PREPROCESSING = Preprocessing(1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def noise(name: str, count: int, seed: int = 0) -> Dataset:
    """Return uniform 8-bit noise; the trained net gets it through its own preprocessing.

    VGG16, whose fp16 costs as much as all other nets, gets half of it: one half of the first half, one of the second.
    """
    data = probes("uniform", n=count, shape=(3, 32, 32), seed=seed)
    if name == "vgg16":
        quarter = torch.arange(count // 4)
        data = data.subset(torch.cat([quarter, count // 2 + quarter]))
    return Dataset(data.name, data.raw, data.labels, (), OWN_PREPROCESSING) if name == TRAINED else data


def available() -> tuple[str, ...]:
    """Return the nets that can be built here."""
    found = TORCHVISION if _torchvision() is not None else OWN
    return (*found, TRAINED) if _weights().exists() else found


def build(name: str) -> nn.Module:
    """Return one net, ready to answer ten classes on 32-pixel images."""
    if name == TRAINED:
        return load(_weights(), arch="cifar-resnet20").eval()
    if name in OWN:
        return _calibrated(
            build_architecture(name, seed=0), probes("uniform", n=64, shape=(3, 32, 32), seed=99).all()[0]
        )
    factory = _torchvision()
    if factory is None:
        raise RuntimeError("torchvision does not import here")
    with torch.random.fork_rng():  # torchvision draws from the global generator
        torch.manual_seed(derive(0, "paper-nets", name).words()[1] >> 1)
        model = factory(name)
    return _calibrated(model, _noise_for_statistics())


def _noise_for_statistics() -> Tensor:
    return probes("uniform", n=64, shape=(3, 32, 32), seed=99).all()[0]


def recorded(name: str, tag: str, count: int, cache: Path, *, exact_head: bool = False) -> Trace:
    """Return what net ``name`` makes of ``count`` images under ``tag``, from ``cache`` if it lies there.

    ``exact_head`` leaves the last layer in float32, as deployed nets often do.
    """
    path = cache / ("exact-head" if exact_head else "plain") / name / f"{tag}-{count}"
    if not (path / "trace.json").exists():
        model = build(name)
        skip = [last_linear(model)] if exact_head else []
        emulated_trace(tag, model, noise(name, count), batch_size=BATCH, skip=skip).save(path)
    return Trace.load(path)


def last_linear(model: nn.Module) -> str:
    """Return the name of the last linear layer."""
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear)][-1]


@torch.no_grad()
def _calibrated(model: nn.Module, images: Tensor) -> nn.Module:
    model.eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the plain mean, of one batch
            module.reset_running_stats()
            module.train()
    model(images)
    model.eval()
    last = model.get_submodule(last_linear(model))
    scale = SPREAD / float(model(images).std())
    last.weight.mul_(scale)
    last.bias.mul_(scale)
    return model


def _weights() -> Path:
    return SHARED / "resnet-cifar10" / "resnet20-12fca82f.th"


def _torchvision() -> Callable[[str], nn.Module] | None:
    """Return what builds a net; a torchvision for another torch imports once its missing operators are declared."""
    try:
        library = torch.library.Library("torchvision", "DEF")
        for schema in ("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
                       "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"):  # fmt: skip
            library.define(schema)
        _KEPT.append(library)
    except RuntimeError:
        pass  # they are there
    try:
        from torchvision import models
    except (ImportError, RuntimeError):
        return None
    return lambda name: getattr(models, name)(weights=None, num_classes=10)


_KEPT: list[object] = []  # what a library defines lives as long as it does


def main(name: str, count: str, cache: str) -> None:
    """Record one net under every format, in this process."""
    for tag in TAGS:
        recorded(name, tag, int(count), Path(cache))


if __name__ == "__main__":
    main(*sys.argv[1:])
