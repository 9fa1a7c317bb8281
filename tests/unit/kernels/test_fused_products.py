"""Guards that take the word of the kernel that computed a product, as long as nothing wrote to it since."""

from __future__ import annotations

import logging
import math

import pytest
import torch
from torch import Tensor, nn

from holdfast._kernels import device as devices
from holdfast.errors import IntegrityError
from holdfast.hardening import harden
from holdfast.hardening.guards.checksum_fused import fused_products
from holdfast.hardening.guards.checksum_linear import LinearCheck
from holdfast.hardening.guards.checksum_method import Checksums
from holdfast.models import card
from holdfast.seeds import derive


class Net(nn.Module):
    """Two linear layers; ``meddle`` may write to the first one's output before its guard looks, as taps do."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(40, 24), nn.Linear(24, 6, bias=False)
        generator = derive(2, "net").torch()
        with torch.no_grad():
            for item in self.parameters():
                item.copy_(torch.randn(item.shape, generator=generator) / 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(x)))


def hardened(action: str, device: torch.device) -> tuple[nn.Module, Tensor]:
    tough = harden(Net().eval(), Checksums(sites=("first", "second"), action=action)).to(device)
    x = torch.randn(3, 5, 40, generator=derive(3, "x").torch()).to(device)
    with torch.no_grad():
        tough(x)  # takes the sums where the weights are now
    return tough, x


def alarms(model: nn.Module) -> list[list[int]]:
    return [guard.alarms.tolist() for guard in card(model).guards]


pytestmark = pytest.mark.usefixtures("digested_by_the_reference")


@pytest.fixture(autouse=True)
def _no_grad() -> object:
    with torch.no_grad():
        yield


def test_products_are_those_of_the_library_up_to_rounding_and_raise_no_alarm(resident: torch.device) -> None:
    model, x = hardened("detect", resident)
    plain = model(x)
    with fused_products(model) as count:
        ours = model(x)
        assert alarms(model) == [[0, 0, 0], [0, 0, 0]]
    assert count == 2
    assert torch.allclose(ours, plain, rtol=1e-5, atol=1e-5)
    assert "forward" not in vars(model.first)
    assert torch.equal(model(x), plain)


@pytest.mark.parametrize("fused", [True, False])
def test_weights_that_changed_are_noticed_without_waiting(
    resident: torch.device, fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x = hardened("detect", resident)
    model.first.weight[7, 11] += 1
    monkeypatch.setattr(LinearCheck, "wrong", lambda *_: pytest.fail("a guard waited for its verdict"))
    if fused:
        with fused_products(model):
            model(x)
    else:
        model(x)
    assert alarms(model) == [[5, 5, 5], [0, 0, 0]]


def test_an_output_that_was_written_to_is_read(resident: torch.device) -> None:
    """A fault comes after the product and before the guard; sums of the product know nothing of it."""
    model, x = hardened("detect", resident)

    def strike(_: nn.Module, __: object, output: Tensor) -> None:
        output[1, 2, 3] = 50

    with fused_products(model):
        handle = model.first.register_forward_hook(strike, prepend=True)
        model(x)
        handle.remove()
        assert alarms(model)[0] == [0, 1, 0]


def test_guards_that_correct_and_refuse_work_as_ever(resident: torch.device) -> None:
    for action in ("correct", "refuse"):
        model, x = hardened(action, resident)
        with fused_products(model):
            clean = model(x)
            model.first.weight[7, 11] = math.inf
            if action == "refuse":
                with pytest.raises(IntegrityError, match="15 rows"):
                    model(x)
                continue
            assert torch.allclose(model(x), clean, rtol=1e-5, atol=1e-5)
        # computed again by the same kernel: what the library rounds otherwise would count as well
        assert [int(guard.events.sum()) for guard in card(model).guards] == [15, 0]


@pytest.mark.parametrize("what", ["gradient", "dtype", "device"])
def test_what_the_kernel_cannot_compute_is_left_to_the_library_and_said(
    resident: torch.device, what: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model, x = hardened("detect", resident)
    reason = {"gradient": "a gradient is asked for", "dtype": "float64", "device": "is no CUDA device"}[what]
    if what == "dtype":
        model, x = model.double(), x.double()
    if what == "device":
        monkeypatch.setattr(devices, "KINDS", [])
        devices.device_obstacle.cache_clear()
    with caplog.at_level(logging.WARNING), fused_products(model), torch.set_grad_enabled(what == "gradient"):
        model(x)
        model(x)
    assert [r.args[0] for r in caplog.records if "computed by the library" in r.msg] == ["first", "second"]
    assert reason in caplog.text


@pytest.mark.parametrize("width", [20, 80, 0])
def test_inputs_of_another_width_are_refused_as_the_library_does(resident: torch.device, width: int) -> None:
    """A kernel would step over rows of x and W by the wrong stride, and beyond the end of W."""
    model, _ = hardened("detect", resident)
    x = torch.ones(8, width, device=resident)
    with pytest.raises(RuntimeError) as plain:
        model(x)
    with fused_products(model), pytest.raises(RuntimeError) as fused:
        model(x)
    assert str(fused.value) == str(plain.value)


def test_a_bias_the_library_refuses_is_refused(resident: torch.device) -> None:
    model, x = hardened("detect", resident)
    bias = model.first.bias.data
    for other in (bias.half(), torch.ones(7, device=resident), bias.to("meta")):
        model.first._parameters["bias"] = nn.Parameter(other)
        with fused_products(model), pytest.raises(RuntimeError):
            model(x)


def test_a_bias_with_gaps_is_read_right(resident: torch.device) -> None:
    model, x = hardened("detect", resident)
    plain = model(x)
    model.first.bias.data = model.first.bias.data.repeat_interleave(3)[::3]
    with fused_products(model):
        assert torch.allclose(model(x), plain, rtol=1e-5, atol=1e-5)
    assert alarms(model) == [[0, 0, 0], [0, 0, 0]]


def test_autocast_is_the_library_s(resident: torch.device, caplog: pytest.LogCaptureFixture) -> None:
    model, x = hardened("detect", resident)
    with torch.autocast(resident.type, torch.bfloat16):
        plain = model(x)
        with caplog.at_level(logging.WARNING), fused_products(model):
            found = model(x)
    assert found.dtype == plain.dtype == torch.bfloat16
    assert torch.equal(found, plain)
    assert "autocast" in caplog.text


def test_the_gradient_of_a_bias_alone_is_not_lost(resident: torch.device) -> None:
    model, x = hardened("detect", resident)
    model.requires_grad_(False)
    model.first.bias.requires_grad_()
    with torch.enable_grad(), fused_products(model):
        model(x).sum().backward()
    assert model.first.bias.grad is not None
    assert model.first.bias.grad.count_nonzero() > 0
