"""On a CUDA device only: sizes the interpreter cannot reach, streams, and no copy to the host."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from blake3 import blake3
from torch import nn

import holdfast
from holdfast._kernels import dispatch
from holdfast.errors import DigestMismatch
from holdfast.faults.bit_errors import xor_chip_
from holdfast.faults.chip import Chip
from holdfast.faults.on_device import xor_chip_on_device_
from holdfast.models import build_architecture, identity, manifest_of
from holdfast.seeds import derive
from holdfast.signing import generate_key, require_threshold

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
CUDA = torch.device("cuda")


def random_bytes(count: int) -> torch.Tensor:
    generator = torch.Generator(CUDA).manual_seed(derive(8, "gpu").words()[1] >> 1)
    return torch.randint(0, 256, (count,), dtype=torch.uint8, device=CUDA, generator=generator)


def of_package(tensor: torch.Tensor) -> bytes:
    return blake3(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data).digest()


def test_every_length_up_to_64_kib_and_one_at_any_address() -> None:
    from holdfast._kernels.digest import roots

    buffer = random_bytes((64 << 10) + 64)
    for first in range(0, (64 << 10) + 2, 4096):
        lengths = range(first, min(first + 4096, (64 << 10) + 2))
        tensors = [buffer[length % 37 : length % 37 + length] for length in lengths]
        expected = [of_package(item) for item in tensors]
        assert [bytes(row) for row in roots(tensors).cpu().numpy()] == expected


@pytest.mark.parametrize("size", [(1 << 30) + 1, (5 << 30) + 12345])
def test_gigabytes(size: int) -> None:
    from holdfast._kernels.digest import roots

    data = random_bytes(size)
    assert [bytes(row) for row in roots([data, data[3:]]).cpu().numpy()] == [of_package(data), of_package(data[3:])]


def test_the_first_test_passes() -> None:
    assert dispatch._mistrust(torch.device("cuda", 0)) is None


def test_a_model_is_verified_without_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    net: nn.Module = build_architecture("cifar-resnet20", seed=0).eval()
    key = generate_key()
    bundle, expected = holdfast.sign(net, key=key), manifest_of(net)
    net = net.cuda()
    monkeypatch.setattr(identity, "_digest", lambda *_: pytest.fail("a tensor was copied to the host"))
    assert manifest_of(net) == expected
    holdfast.verify(net, bundle, trust=require_threshold(key.public))
    with torch.no_grad():
        next(net.parameters()).view(torch.int32).view(-1)[5] ^= 1
    with pytest.raises(DigestMismatch):
        holdfast.verify(net, bundle, trust=require_threshold(key.public))


def test_the_background_stream_gives_the_same_digest() -> None:
    data = random_bytes(1 << 24)
    with dispatch.background(data.device):
        found = dispatch.digests([data])
    assert found == [of_package(data)]
    assert dispatch._background_stream(data.device).priority == 0


@pytest.mark.parametrize("rate", [1e-6, 1e-4, 2**-9, 0.01, 0.3])
def test_a_chip_of_a_quarter_of_a_gigabyte_is_the_reference_s(rate: float) -> None:
    seed, octets = derive(6, "gpu"), np.zeros(1 << 26 if rate > 0.1 else 1 << 28, np.uint8)
    count = xor_chip_(octets, rate, seed, first=5)
    found = torch.zeros(len(octets), dtype=torch.uint8, device=CUDA)
    assert xor_chip_on_device_(found, rate, seed, first=5) == count
    assert torch.equal(found.cpu(), torch.from_numpy(octets))


def test_atomics_beyond_four_gigabytes() -> None:
    memory, seed = torch.zeros((5 << 30) + 3, dtype=torch.uint8, device=CUDA), derive(7, "gpu")
    count = xor_chip_on_device_(memory[3:], 1e-6, seed)
    assert count == sum(len(found) for _, found in Chip(1e-6, seed).lists(0, 8 * (5 << 30)))
    from holdfast._kernels.chips import popcount

    assert popcount(memory) == count
    xor_chip_on_device_(memory[3:], 1e-6, seed)
    assert popcount(memory) == 0
