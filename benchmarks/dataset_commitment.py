"""The order-free commitment to CIFAR-sized samples (3072 bytes, label and class name) against one SHA-256 a sample.

A digest a sample says nothing about the set; the commitment hashes each sample under its key, expands it to 2048 bytes
and adds 1024 lanes. ``HOLDFAST_BENCH_CIFAR`` names a folder with the real images; without it the bytes are random,
which makes no difference to either.
"""

from __future__ import annotations

import hashlib
import os

import torch

import holdfast
from benchmarks import _harness
from holdfast.data import Dataset
from holdfast.data.commitments import image_multiset
from holdfast.seeds import derive

COUNT = 20_000
REPEATS = 9
BAR = 150_000  # samples per CPU-second


def measure() -> _harness.Result:
    """Time both on samples in memory, on one core."""
    torch.set_num_threads(1)
    data = samples(COUNT)
    pairs = _harness.paired(lambda: image_multiset(data, "cifar10/train"), lambda: _sha256(data), repeats=REPEATS)
    rates = [(len(data) / ours, len(data) / peer) for ours, peer in pairs]
    return _harness.summarise(
        f"the order-free commitment takes at least {BAR:,} CIFAR samples per CPU-second",
        rates,
        peer_name="hashlib sha256 of each sample's pixels and label",
        unit="samples per CPU-s",
    )


def samples(count: int) -> Dataset:
    """Return real CIFAR-10 training images where there are some, else as many random ones of that size."""
    root = os.environ.get("HOLDFAST_BENCH_CIFAR")
    if root:
        return holdfast.dataset(f"cifar10:{root}", split="train").take(count)
    generator = derive(0, "cifar-sized").torch()
    raw = torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)
    labels = torch.randint(10, (count,), generator=generator)
    return Dataset("random/train", raw, labels, tuple("abcdefghij"))


def _sha256(data: Dataset) -> list[bytes]:
    rows, labels = data.raw.reshape(len(data), -1).numpy(), data.labels.numpy()
    return [hashlib.sha256(row.tobytes() + label.tobytes()).digest() for row, label in zip(rows, labels, strict=True)]


if __name__ == "__main__":
    _harness.main(measure)
