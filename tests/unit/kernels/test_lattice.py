"""LtHash on the device: the lanes and digests of the reference, whatever the order, the split and the keys."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from holdfast.data.commitments.element import Encoder
from holdfast.data.commitments.multiset import MultisetHash, lane_sum
from holdfast.data.commitments.on_device import sum_batch
from holdfast.errors import InvalidConfig, MissingDevice
from holdfast.seeds import derive


def some_digests(count: int) -> Tensor:
    return torch.randint(0, 256, (count, 32), dtype=torch.uint8, generator=derive(5, "digests").torch())


def lanes_of(digests: Tensor, context: str = "holdfast 2026 dataset lattice v1") -> np.ndarray:
    from holdfast._kernels.lattice import lane_sums

    return lane_sums(digests, context).cpu().numpy()


@pytest.mark.parametrize("count", [1, 5])
def test_lanes_are_the_reference_s(resident: torch.device, count: int) -> None:
    digests = some_digests(count)
    expected = lane_sum([bytes(row) for row in digests.numpy()])
    assert np.array_equal(lanes_of(digests.to(resident)), expected)


def test_sums_of_parts_are_the_sum_of_the_whole_modulo_two_to_the_sixteen(resident: torch.device) -> None:
    digests = some_digests(7).to(resident)
    parts = lanes_of(digests[:3]) + lanes_of(digests[3:])
    assert np.array_equal(parts % 2**16, lanes_of(digests))
    repeated = digests[:1].expand(17, 32).contiguous()
    assert np.array_equal(lanes_of(repeated), lanes_of(digests[:1]) * 17 % 2**16)


def test_nothing_has_no_lanes_and_odd_shapes_are_refused(resident: torch.device) -> None:
    assert not lanes_of(some_digests(0).to(resident)).any()
    with pytest.raises(InvalidConfig, match="32 bytes"):
        lanes_of(torch.zeros(3, 31, dtype=torch.uint8, device=resident))


def a_batch() -> dict[str, Tensor]:
    generator = derive(6, "batch").torch()
    images = torch.randint(0, 256, (3, 2, 3), dtype=torch.uint8, generator=generator)
    return {"image": images, "label": torch.tensor([3, 1, 2]), "ähnlich": torch.randn(3, 2, generator=generator)}


@pytest.mark.parametrize("keys", [("000", "001", "002"), ("a", "long key", "b")])
def test_a_batch_comes_to_what_its_samples_come_to(resident: torch.device, keys: tuple[str, ...]) -> None:
    encoder, batch = Encoder("digits"), a_batch()
    elements = [encoder.element(key, {name: item[n] for name, item in batch.items()}) for n, key in enumerate(keys)]
    found = sum_batch(encoder, keys, {name: item.to(resident) for name, item in batch.items()})
    assert [bytes(row) for row in found.digests.cpu().numpy()] == [item.digest for item in elements]
    expected = MultisetHash.of((item.digest for item in elements), size=sum(item.size for item in elements))
    assert found.multiset() == expected
    assert found.multiset().digest == expected.digest


@pytest.mark.slow
def test_a_label_and_a_key_are_bound(resident: torch.device) -> None:
    encoder, batch = Encoder("digits"), {name: item[:1].to(resident) for name, item in a_batch().items()}
    first = sum_batch(encoder, ["a"], batch).multiset()
    assert sum_batch(encoder, ["b"], batch).multiset() != first
    assert sum_batch(encoder, ["a"], batch | {"label": batch["label"] + 1}).multiset() != first


def test_batches_that_do_not_fit_or_lie_elsewhere_are_refused(resident: torch.device) -> None:
    batch = {name: item.to(resident) for name, item in a_batch().items()}
    with pytest.raises(InvalidConfig, match="each of 2 samples"):
        sum_batch(Encoder("digits"), ["a", "b"], batch)
    with pytest.raises(MissingDevice, match="not contiguous"):
        sum_batch(Encoder("digits"), ["a", "b"], {"x": torch.zeros(3, 2, device=resident).t()})


def test_without_a_device_the_reason_is_said() -> None:
    with pytest.raises(MissingDevice, match="cpu is no CUDA device"):
        sum_batch(Encoder("digits"), ["a", "b", "c"], a_batch())
