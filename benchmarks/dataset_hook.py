"""What checking and counting every sample adds to training: ResNet-20 steps on CIFAR-sized data, with and without.

The same loader order, batch size and net; only the dataset is verified or not. Since two long runs differ by more than
the check costs, the check alone is measured as well, against a three-convolution net too, the smallest that trains.
``HOLDFAST_BENCH_CIFAR`` names a folder with the real images.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from benchmarks import _harness
from benchmarks.dataset_commitment import samples
from holdfast.data import Dataset
from holdfast.data.commitments import checked, commit
from holdfast.models import build_architecture
from holdfast.seeds import derive

BATCH, STEPS, REPEATS = 128, 6, 7
ARCHITECTURE = "cifar-resnet20"


class Plain(torch.utils.data.Dataset):
    """The same images without the check, handed out in the same way."""

    def __init__(self, data: Dataset) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> object:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[tuple[torch.Tensor, int]]:
        images, labels = self.data.batch(torch.as_tensor(indices))
        return list(zip(images, labels.tolist(), strict=True))


def measure() -> _harness.Result:
    """Time whole training steps of both, then the loaders alone, on one core."""
    torch.set_num_threads(1)
    data = samples(BATCH * STEPS)
    verified, plain = checked(data, commit(data)), Plain(data)
    net = build_architecture(ARCHITECTURE)
    pairs = _harness.paired(_training(net, verified), _training(net, plain), repeats=REPEATS)
    large = samples(20_000)
    checks = _harness.paired(_loading(checked(large, commit(large))), _loading(Plain(large)), repeats=5)
    cost = statistics.median(one - other for one, other in checks) / len(large)
    shares = [cost * len(data) / step for step in (_median(pairs), _small(plain))]
    return _harness.summarise(
        f"checking every sample costs under 2 % of an epoch of {ARCHITECTURE}: {cost * 1e6:.1f} us a sample measured"
        f" alone, {shares[0]:.2%} of it, and {shares[1]:.2%} of a net of three convolutions",
        pairs,
        peer_name="the same training without the check",
    )


def _median(pairs: list[tuple[float, float]]) -> float:
    return statistics.median(peer for _, peer in pairs)


def _small(data: Plain) -> float:
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    run = _training(nn.Sequential(*layers, nn.Flatten(), nn.Linear(1024, 10)), data)
    run()
    return statistics.median(_harness.cpu_seconds(run) for _ in range(5))


def _training(net: nn.Module, data: torch.utils.data.Dataset) -> Callable[[], None]:
    """Return an epoch: shuffled batches, forward, backward, step."""
    optimiser = torch.optim.SGD(net.parameters(), 1e-3, momentum=0.9)

    def epoch() -> None:
        for images, labels in _loader(data):
            optimiser.zero_grad()
            cross_entropy(net(images), labels).backward()
            optimiser.step()

    return epoch


def _loading(data: torch.utils.data.Dataset) -> Callable[[], None]:
    def epoch() -> None:
        for _ in _loader(data):
            pass

    return epoch


def _loader(data: torch.utils.data.Dataset) -> DataLoader:
    return DataLoader(data, batch_size=BATCH, shuffle=True, generator=derive(0, "order").torch())


if __name__ == "__main__":
    _harness.main(measure)
