"""A quantised model moves as a whole: what faults flip lies where the network computes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from holdfast.data import dataset
from holdfast.execution import inject, robust_error
from holdfast.faults import BitErrors
from holdfast.models import build_architecture, card
from holdfast.numerics import bits
from holdfast.quantization import place, placed, quantize


def test_codes_move_with_their_parameters() -> None:
    model = quantize(build_architecture("digits-cnn:channels=2", seed=0), "rquant8")
    place(model, "meta")
    assert {value.device.type for value in model.parameters()} == {"meta"}
    for lens in card(model).lenses.values():
        assert {lens.codes.device.type, *(value.device.type for value in lens.qparams.values())} == {"meta"}


def test_a_model_is_back_on_the_cpu_whatever_happened() -> None:
    model = quantize(build_architecture("digits-cnn:channels=2", seed=0), "rquant4")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(RuntimeError, match="stop"), placed(model, "cpu:0"):
        raise RuntimeError("stop")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(lens.codes.device.type == "cpu" for lens in card(model).lenses.values())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("format", ["rquant8", "rquant4"])
def test_chips_on_the_device_are_those_of_the_cpu(format: str) -> None:
    here = quantize(build_architecture("digits-cnn", seed=0), format).eval()
    there = quantize(build_architecture("digits-cnn", seed=0), format).eval()
    data, law = dataset("digits").take(200), BitErrors(rate=0.01)
    with placed(there, "cuda"):
        with inject(here, law, seed=5), inject(there, law, seed=5):
            for one, other in zip(here.parameters(), there.parameters(), strict=True):
                assert bits.bit_equal(one.detach(), other.detach().cpu())
        found = robust_error(there, data, law, chips=4)
    expected = robust_error(here, data, law, chips=4)
    assert found.flips == expected.flips
    assert [abs(a - b) < 0.02 for a, b in zip(found.per_chip, expected.per_chip, strict=True)] == [True] * 4


class NoRoom:
    """Codes for which the device has no memory left."""

    device = torch.device("cpu")

    def to(self, _: object) -> None:
        raise torch.OutOfMemoryError("no memory left (played)")


def devices(model: nn.Module) -> list[str]:
    codes = [tensor for lens in card(model).lenses.values() for tensor in (lens.codes, *lens.qparams.values())]
    return [tensor.device.type for tensor in (*model.parameters(), *model.buffers(), *codes)]


@pytest.mark.parametrize("where", ["codes", "weights"])
def test_a_move_that_fails_half_way_moves_nothing(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights on a device without memory for the codes would be struck by nothing that strikes these."""
    model = quantize(build_architecture("digits-cnn:channels=2", seed=0), "rquant8")
    next(model.parameters()).grad = torch.ones_like(next(model.parameters()))
    before, kept = list(model.parameters()), {name: value.clone() for name, value in model.state_dict().items()}
    lens = list(card(model).lenses.values())[-1]
    with monkeypatch.context() as patch:
        if where == "codes":
            patch.setattr(lens, "codes", NoRoom())
        else:
            patch.setattr(list(model.modules())[-1], "_apply", lambda *_: NoRoom().to(None))
        with pytest.raises(torch.OutOfMemoryError), placed(model, "meta"):
            pytest.fail("there was room")
    assert set(devices(model)) == {"cpu"}
    assert all(one is other for one, other in zip(model.parameters(), before, strict=True))
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())
    assert before[0].grad is not None
    assert before[0].grad.device.type == "cpu"


def test_a_model_in_two_places_stays_there_where_it_cannot_move() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].to("meta")
    with pytest.raises(NotImplementedError), placed(model, "cpu"):
        pytest.fail("a tensor without contents was moved")
    assert devices(model) == ["cpu", "cpu", "meta", "meta"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_model_in_two_places_is_in_both_again() -> None:
    model = quantize(build_architecture("digits-cnn:channels=2", seed=0), "rquant8")
    next(iter(model.children())).to("cuda")  # its codes stay on the CPU
    before = devices(model)
    assert len(set(before)) == 2
    with placed(model, "cuda"):
        assert set(devices(model)) == {"cuda"}
    assert devices(model) == before
