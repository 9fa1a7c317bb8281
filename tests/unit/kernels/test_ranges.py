"""The guard's one pass on the device: the values and the counts of the reference, to the bit."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from holdfast._kernels import device as devices
from holdfast.hardening import RangeGuard
from holdfast.numerics.bits import bit_equal
from holdfast.seeds import derive

WILD = (math.nan, math.inf, -math.inf, 1e30, -1e30, -0.0, 2.5, -1.5)
KINDS = {
    "tensor": {"low": -1.5, "high": 2.5},
    "above zero": {"low": 0.25, "high": 2.5},
    "below zero": {"low": -3.0, "high": -0.25},
    "channel": {"low": [-1.0, 0.0, 0.5], "high": [1.0, 0.5, 2.0], "dim": 1},
    "last": {"low": [-1.0, -0.5, 0.0, 0.25], "high": [0.0, 0.5, 1.0, 4.0], "dim": -1},
    "element": {"low": [-k / 60 for k in range(60)], "high": [k / 30 for k in range(60)], "dim": "element"},
}


def some_values(dtype: torch.dtype) -> Tensor:
    generator = derive(2, "ranges").torch()
    x = torch.randn(4, 3, 5, 4, generator=generator)
    for number, value in enumerate(WILD):
        x[number % 3].view(-1)[7 * number + 1] = value
    x[3].clamp_(0.6, 0.7)
    return x.to(dtype)


def both(
    x: Tensor, device: torch.device, guard: dict[str, object], patch: pytest.MonkeyPatch
) -> list[tuple[Tensor, Tensor]]:
    """Values and events of the kernel and of the reference."""
    results = []
    for kinds in ([device.type], []):
        patch.setattr(devices, "KINDS", kinds)
        devices.device_obstacle.cache_clear()
        made = RangeGuard("relu", **guard)
        given = x.clone().to(device)
        found = made(given)
        assert found is given
        assert made.events is not None
        results.append((found.cpu(), made.events.cpu()))
    return results


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("action", ["clip", "zero", "resample"])
@pytest.mark.parametrize("nan", ["zero", "keep"])
def test_values_and_counts_are_the_reference_s(
    resident: torch.device, kind: str, action: str, nan: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    low = KINDS[kind]["low"]
    mean = [0.1 * k for k in range(len(low))] if isinstance(low, list) else 0.1
    guard = KINDS[kind] | {"action": action, "nan": nan} | ({"mean": mean} if action == "resample" else {})
    for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
        x = some_values(torch.float32).clamp(-6e4, 6e4).to(dtype) if dtype == torch.float16 else some_values(dtype)
        (found, events), (expected, counts) = both(x, resident, guard, monkeypatch)
        assert bit_equal(found.nan_to_num(nan=77), expected.nan_to_num(nan=77)), dtype
        assert torch.equal(found.isnan(), expected.isnan())
        assert events.tolist() == counts.tolist()


@pytest.mark.parametrize("shape", [(2, 3, 40, 40), (2, 3, 29, 29), (2, 3, 50, 50), (2, 700, 7), (2, 3, 2501)], ids=str)
@pytest.mark.parametrize("dim", [1, -1, "element", None])
def test_whole_blocks_and_what_is_left_of_a_sample(
    resident: torch.device, shape: tuple[int, ...], dim: int | str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = math.prod(shape[1:]) if dim == "element" else shape[dim] if isinstance(dim, int) else 1
    lows = [-1.0 * (number % 2) for number in range(count)]  # so that where one range ends and the next begins is seen
    guard: dict[str, object] = {"low": lows, "high": [2.0] * count, "dim": dim}
    x = torch.full(shape, -0.5)
    (found, events), (expected, counts) = both(x, resident, guard if dim else {"low": -0.25, "high": 2.0}, monkeypatch)
    assert bit_equal(found, expected)
    assert events.tolist() == counts.tolist()
    assert int(events.min()) > 0


def test_a_clean_pass_writes_nothing_and_counts_nothing(resident: torch.device) -> None:
    guard = RangeGuard("relu", -1.0, 1.0)
    x = torch.linspace(-1, 1, 3000, device=resident).reshape(3, 1000)
    before = x.clone()
    assert guard(x) is x
    assert torch.equal(x, before)
    assert guard.events is not None
    assert guard.events.tolist() == [0, 0, 0]


def test_samples_larger_than_a_program_are_counted_whole(resident: torch.device) -> None:
    guard = RangeGuard("relu", -1.0, 1.0)
    x = torch.zeros(2, 2500, device=resident)
    x[1, ::2] = 5.0
    guard(x)
    assert guard.events is not None
    assert guard.events.tolist() == [0, 1250]
    assert float(x.max()) == 1.0


def test_training_and_odd_layouts_keep_the_reference(resident: torch.device) -> None:
    from holdfast.hardening.guards.range_on_device import fits

    assert fits(torch.zeros(3, device=resident))
    assert not fits(torch.zeros(3, device=resident, requires_grad=True))
    assert not fits(torch.zeros(3, 4, device=resident).t())
    assert not fits(torch.zeros(3, device=resident, dtype=torch.int32))


def test_the_bounds_follow_the_dtype_and_shape_of_what_comes(resident: torch.device) -> None:
    guard = RangeGuard("relu", [0.0, 1.0], [1.0, 2.0], dim=1)
    for dtype, shape in ((torch.float32, (1, 2)), (torch.bfloat16, (2, 2, 3))):
        x = torch.full(shape, 9.0, dtype=dtype, device=resident)
        assert guard(x).dtype == dtype
        assert x[0].reshape(2, -1)[:, 0].tolist() == [1.0, 2.0]


def test_a_kernel_that_does_not_compile_leaves_the_guard_to_torch(
    resident: torch.device, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from triton.errors import TritonError

    from holdfast._kernels import ranges
    from holdfast.hardening.guards.range_on_device import fits

    def fails(*_: object, **__: object) -> Tensor:
        raise TritonError("out of resource: shared memory")

    monkeypatch.setattr(ranges, "restrict_", fails)
    guard, x = RangeGuard("relu", -1.0, 1.0), torch.tensor([[0.0, 7.0]], device=resident)
    assert guard(x).tolist() == [[0.0, 1.0]]
    assert guard.events is not None
    assert guard.events.tolist() == [1]
    assert "the references are used from now on" in caplog.text
    assert not fits(x)
