"""Public models, private tasks and the four kinds of victims that ``model_stealing`` attacks.

The private task is the public one in photographic negative: near it, and not it.
"""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from holdfast.data import Dataset, dataset
from holdfast.models import build_architecture, load
from holdfast.models.networks.digits import DigitsCNN
from holdfast.models.networks.resnet import BasicBlock
from holdfast.seeds import derive
from holdfast.shielding.theft import Knockoff
from holdfast.training import DeSimilarity, Standard, train
from holdfast.training.recipes import Schedule

SHARED = Path(os.environ.get("HOLDFAST_SHARED", Path(__file__).resolve().parents[2] / "shared")) / "data"
_RANK = 4  # channels inside a slice


@dataclasses.dataclass(frozen=True)
class Task:
    """A public model, a private task and an attacker.

    Attributes:
        public: what everybody has.
        own: the owner's training data; calibration too.
        pool: the attacker's images.
        test: the judge.
        tuning: of the victim.
        strength: of de-similarity; its gradient is shared by all weights, so larger networks take more.
        ends: stages kept by first-k and last-k.
        slice_steps: of training private slices, on batches of 64.
    """

    public: nn.Module
    own: Dataset
    pool: Dataset
    test: Dataset
    tuning: Schedule
    budgets: tuple[int, ...]
    knockoff: Knockoff
    strength: float
    ends: int
    slice_steps: int


def digits(seed: int) -> Task:
    """Return the digits task: thirds of the training data for public model, victim and attacker."""
    whole = dataset("digits", split="train")
    first, rest = whole.split(1 / 3, seed=seed)
    own, pool = rest.split(1 / 2, seed=seed)
    recipe = Standard(schedule=Schedule(epochs=15))
    public = train(build_architecture("digits-cnn", seed=seed), first, recipe, seed=seed)
    return Task(public, _negative(own), _negative(pool), _negative(dataset("digits", split="test")),
                Schedule(epochs=15, lr=0.05), (0, 20, 100, 400), Knockoff(steps=200), 1.0, 2, 300)  # fmt: skip


def cifar10(seed: int) -> Task:
    """Return the CIFAR-10 task: a published ResNet-20, and CIFAR-10 in negative."""
    root = os.environ.get("HOLDFAST_CIFAR10", "")
    train_data, test = dataset(f"cifar10:{root}", split="train"), dataset(f"cifar10:{root}", split="test")
    public = load(SHARED / "resnet-cifar10" / "resnet20-12fca82f.th", arch="cifar-resnet20")
    chosen = train_data.split(6000 / len(train_data), seed=seed)[0]
    own, pool = chosen.split(5 / 6, seed=seed)
    judge = test.split(1000 / len(test), seed=seed)[0]
    return Task(public, _negative(own), _negative(pool), _negative(judge), Schedule(epochs=1, lr=0.01, batch_size=64),
                (0, 500), Knockoff(steps=100, batch_size=32), 30.0, 10, 79)  # fmt: skip


def _negative(data: Dataset) -> Dataset:
    top = 16 if int(data.raw.max()) <= 16 else 255
    return dataclasses.replace(data, raw=(top - data.raw.int()).to(torch.uint8))


def fine_tuned(task: Task, seed: int) -> nn.Module:
    """Return a victim of plain quantisation-aware fine-tuning of all weights."""
    return train(task.public, task.own, DeSimilarity(strength=0, schedule=task.tuning), seed=seed)


def de_similar(task: Task, seed: int) -> nn.Module:
    """Return the same, with the de-similarity term."""
    return train(task.public, task.own, DeSimilarity(strength=task.strength, schedule=task.tuning), seed=seed)


def last_layer(task: Task, seed: int) -> nn.Module:
    """Return a victim whose every layer but the last is the public one's, to the bit."""
    net = copy.deepcopy(task.public).eval()
    return _trained(net, list(_linear(net).parameters()), task, seed)


def sliced(task: Task, seed: int) -> nn.Module:
    """Return a victim after TEESlice (Zhang et al., S&P 2024): the public network, bit for bit, and private slices.

    A slice is a narrow path beside each residual block, or each convolution; it and the last layer alone are trained.
    """
    net = with_slices(task.public)
    parts = [part for part in net.modules() if isinstance(part, Slice)] + [_linear(net)]
    return _trained(net, [value for part in parts for value in part.parameters()], task, seed)


class Slice(nn.Module):
    """A private path: 3 x 3 to a few channels, ReLU, 1 x 1 to as many as are added to; it begins as nothing."""

    def __init__(self, taken: int, given: int, stride: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(taken, _RANK, 3, stride, padding=1)
        self.up = Nothing(_RANK, given, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return what is added, (batch, given, h, w)."""
        out: Tensor = self.up(torch.relu(self.down(x)))
        return out


class Nothing(nn.Conv2d):
    """A convolution that begins with zeros, the victim's and the attacker's alike."""

    def reset_parameters(self) -> None:
        """Fill with zeros."""
        nn.init.zeros_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class Beside(nn.Module):
    """The sum of a shortcut and a slice."""

    def __init__(self, shortcut: nn.Module, slice_: Slice) -> None:
        super().__init__()
        self.shortcut, self.slice = shortcut, slice_

    def forward(self, x: Tensor) -> Tensor:
        """Return both added."""
        out: Tensor = self.shortcut(x) + self.slice(x)
        return out


class SlicedDigits(DigitsCNN):
    """The digits network with a slice beside each convolution and its normalisation; same paths for what is public."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__(channels, classes)
        self.slice1 = Slice(1, channels, 1)
        self.slice2 = Slice(channels, channels, 1)
        self.slice3 = Slice(channels, 2 * channels, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        x = self.relu(self.norm1(self.conv1(x)) + self.slice1(x))
        x = x + self.relu(self.norm2(self.conv2(x)) + self.slice2(x))
        x = self.relu(self.norm3(self.conv3(x)) + self.slice3(x))
        return self.fc(torch.mean(x, dim=(2, 3)))  # type: ignore[no-any-return]


def with_slices(public: nn.Module) -> nn.Module:
    """Return ``public`` with slices that do nothing yet."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        if isinstance(public, DigitsCNN):
            made: nn.Module = SlicedDigits(public.conv1.out_channels, public.fc.out_features)
            made.load_state_dict(public.state_dict(), strict=False)
            return made.eval()
        made = copy.deepcopy(public).eval()
        for part in [part for part in made.modules() if isinstance(part, BasicBlock)]:
            form = part.conv1
            path = Slice(form.in_channels, form.out_channels, int(form.stride[0]))
            part.shortcut = Beside(part.shortcut, path)  # type: ignore[assignment]
    return made


def _linear(net: nn.Module) -> nn.Linear:
    return [part for part in net.modules() if isinstance(part, nn.Linear)][-1]


def _trained(net: nn.Module, values: Sequence[nn.Parameter], task: Task, seed: int) -> nn.Module:
    """Train ``values`` alone; normalisations keep their public statistics."""
    for value in net.parameters():
        value.requires_grad_(False)
    for value in values:
        value.requires_grad_(True)
    optimiser = torch.optim.Adam(values, lr=3e-3)
    for indices in _batches(len(task.own), task.slice_steps, seed):
        images, labels = task.own.batch(indices)
        optimiser.zero_grad()
        cross_entropy(net(images), labels).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    for value in net.parameters():
        value.requires_grad_(True)
    return net.eval()


def _batches(count: int, steps: int, seed: int) -> Iterator[Tensor]:
    generator = derive(seed, "benchmark", "victim").numpy()
    for _ in range(steps):
        yield torch.from_numpy(generator.choice(count, min(64, count), replace=False))


TASKS: dict[str, Callable[[int], Task]] = {"digits": digits, "cifar10": cifar10}
VICTIMS: dict[str, Callable[[Task, int], nn.Module]] = {
    "fine-tuned": fine_tuned,
    "de-similar": de_similar,
    "private slices": sliced,
    "private last layer": last_layer,
}
