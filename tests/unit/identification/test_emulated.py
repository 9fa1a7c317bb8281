"""Emulated formats: what a layer sees is what the format holds, and gradients pass as if nothing were rounded."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from holdfast.data import probes
from holdfast.errors import InvalidConfig, NoSuchSite, UnknownName
from holdfast.identification.emulated import (
    EMULATED,
    PUBLISHED,
    EmulatedFormat,
    Rounding,
    emulated_trace,
    straight_through,
)
from holdfast.numerics.formats import Minifloat, formats

TAGS_OF_THE_PAPER = ("fp32", "bf16", "fp16", "mxint8", "fp8-e3m4", "fp8-e4m3", "int8-dynamic")


def small_net(channels: int = 40) -> nn.Sequential:
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, channels, 3),
        nn.ReLU(),
        nn.Conv2d(channels, 8, 3, groups=8 if channels % 8 == 0 else 1),
        nn.Flatten(),
        nn.Linear(8 * 4 * 4, 10),
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model.eval()


def images(n: int = 4) -> Tensor:
    return probes("uniform", n=n, shape=(3, 8, 8), seed=1).all()[0]


class Seen:
    """Keeps what a layer is given."""

    def __init__(self, layer: nn.Module) -> None:
        self.inputs: list[Tensor] = []
        layer.register_forward_hook(lambda _module, given, _output: self.inputs.append(given[0]))


def test_every_tag_of_the_specification_is_there():
    assert {*TAGS_OF_THE_PAPER, "bm8", "bl8", "log8", "bypass"} <= set(EMULATED)
    assert all(EMULATED[name].name == name for name in EMULATED)


def test_bypass_goes_through_every_step_and_changes_no_bit():
    model = small_net()
    assert torch.equal(EMULATED["bypass"].apply(model)(images()), model(images()))
    assert torch.equal(EMULATED["fp32"].apply(model)(images()), model(images()))


@pytest.mark.parametrize("tag", ["fp16", "bf16"])
def test_a_cast_net_answers_on_the_grid_of_its_dtype(tag: str):
    answers = EMULATED[tag].apply(small_net())(images())
    dtype = getattr(torch, EMULATED[tag].dtype)
    assert answers.dtype == torch.float32
    assert torch.equal(answers, answers.to(dtype).float())


@pytest.mark.parametrize("tag", sorted(set(EMULATED) - {"fp32", "fp16", "bf16", "bypass"}))
def test_layers_see_only_numbers_of_the_format(tag: str):
    """What a layer saw lies on the grid: rounding it once more changes nothing; int8 has at most 256 levels a range."""
    model = small_net()
    emulation = EMULATED[tag].apply(model)
    places = (0, 2, 4)
    seen = [Seen(emulation.model[place]) for place in places]
    emulation(images())
    for place, kept in zip(places, seen, strict=True):
        layer, (given,) = emulation.model[place], kept.inputs
        assert not torch.equal(layer.weight, model[place].weight)
        assert not torch.equal(layer.bias, model[place].bias)
        if tag.startswith("int8"):
            ranges = given if tag == "int8-dynamic-alone" else given[None]
            assert max(part.unique().numel() for part in ranges) <= 256
            assert max(layer.weight.unique().numel(), layer.bias.unique().numel()) <= 256
        else:
            rounding = Rounding(formats.build(EMULATED[tag].inputs), across_channels=place < 4)
            assert torch.equal(rounding(layer, (given,))[0], given)
            assert torch.equal(straight_through(layer.bias, formats.build(EMULATED[tag].bias)), layer.bias)


def test_fp8_is_what_ml_dtypes_makes_of_it():
    """OCP's e4m3 ends at 448 (HSPI's code: 480) and 1.99 rounds to 2 (HSPI's code: 1.875); weights of e3m4 are e3m4."""
    model = nn.Sequential(nn.Linear(4, 4, bias=False))
    values = torch.tensor([1.99, 0.3, 470.0, -1000.0])
    with torch.no_grad():
        model[0].weight.copy_(values.expand(4, 4))
    e4m3 = EMULATED["fp8-e4m3"].apply(model).model[0].weight[0]
    assert e4m3.tolist() == [2.0, 0.3125, 448.0, -448.0]
    assert PUBLISHED["fp8-e4m3"].apply(model).model[0].weight[0].tolist() == [1.875, 0.3125, 480.0, -480.0]
    weight = torch.randn(4, 4, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        model[0].weight.copy_(weight)
    e3m4 = EMULATED["fp8-e3m4"].apply(model).model[0].weight.detach()
    assert np.array_equal(e3m4.numpy(), weight.numpy().astype(ml_dtypes.float8_e3m4).astype(np.float32))
    assert not torch.equal(e3m4, PUBLISHED["fp8-e3m4"].apply(model).model[0].weight)


def test_blocks_run_across_channels():
    """One huge channel at one pixel coarsens the other channels of that pixel, and no other pixel."""
    model = nn.Sequential(nn.Conv2d(32, 1, 1))
    kept = Seen((emulation := EMULATED["mxint8"].apply(model)).model[0])
    x = torch.full((1, 32, 2, 2), 0.01)
    x[0, 0, 0, 0] = 100.0
    emulation(x)
    (seen,) = kept.inputs
    assert (seen[0, 1:, 0, 0] == 0).all()
    torch.testing.assert_close(seen[0, :, 1, 1], x[0, :, 1, 1], rtol=1 / 64, atol=0)
    published = Seen((emulation := PUBLISHED["mxint8"].apply(model)).model[0])
    emulation(x)
    assert (published.inputs[0][0, 1:, 0, 0] != 0).all()  # its blocks are rows of one channel


def test_the_bias_of_bm8_has_the_right_sign():
    """HSPI's code holds 8 as 1.97 and 0.04 as 0."""
    model = nn.Sequential(nn.Linear(16, 1, bias=False))
    for value in (8.0, 0.04):
        with torch.no_grad():
            model[0].weight.fill_(value)
        ours = EMULATED["bm8"].apply(model).model[0].weight
        theirs = PUBLISHED["bm8"].apply(model).model[0].weight
        assert (ours - value).abs().max() <= value / 64
        assert (theirs - value).abs().min() > value / 2


@pytest.mark.parametrize("tag", ["int8-dynamic", "fp8-e4m3", "mxint8", "bm8", "bl8", "log8"])
def test_the_gradient_is_that_of_the_rounded_net_without_its_rounding(tag: str):
    x = images().requires_grad_()
    emulation = EMULATED[tag].apply(nn.Sequential(nn.Conv2d(3, 1, 3, bias=False)))
    emulation(x).sum().backward()
    reference = torch.zeros_like(x)
    with torch.no_grad():
        weight = emulation.model[0].weight
        for row in range(3):
            for column in range(3):
                reference[:, :, row : row + 6, column : column + 6] += weight[0, :, row, column].view(1, 3, 1, 1)
    torch.testing.assert_close(x.grad, reference)


def test_weights_are_rounded_once(monkeypatch: pytest.MonkeyPatch):
    calls = []
    original = Minifloat.encode
    monkeypatch.setattr(Minifloat, "encode", lambda self, x, *rest: calls.append(x.shape) or original(self, x, *rest))
    emulation = EMULATED["fp8-e4m3"].apply(small_net())
    made = len(calls)
    emulation(images())
    emulation(images())
    assert made == 6  # three weights, three biases
    assert len(calls) - made == 6  # three inputs, twice


def test_a_sample_alone_answers_as_in_company_where_ranges_are_its_own():
    """Ranges over a batch make neighbours part of the answer; that is what the published code has."""
    model, x = small_net(), images(4) * torch.tensor([1.0, 3.0, 0.5, 2.0]).view(-1, 1, 1, 1)
    shared, apart = EMULATED["int8-dynamic"].apply(model), EMULATED["int8-dynamic-alone"].apply(model)
    torch.testing.assert_close(apart(x)[:1], apart(x[:1]))
    assert not torch.allclose(shared(x)[2:3], shared(x[2:3]), rtol=1e-4)


def test_the_model_is_not_touched_and_skipped_layers_keep_theirs():
    model = small_net()
    before = [parameter.clone() for parameter in model.parameters()]
    emulation = EMULATED["mxint8"].apply(model, skip=["4"])
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert torch.equal(emulation.model[4].weight, model[4].weight)
    assert not torch.equal(emulation.model[0].weight, model[0].weight)


def test_what_cannot_be_emulated_is_refused():
    with pytest.raises(InvalidConfig, match="attention"):
        EMULATED["mxint8"].apply(nn.TransformerEncoderLayer(8, 2))
    with pytest.raises(InvalidConfig, match="no Conv2d or Linear"):
        EMULATED["mxint8"].apply(nn.Sequential(nn.ReLU()))
    with pytest.raises(NoSuchSite, match="no layer is called 'lm_head'"):
        EMULATED["mxint8"].apply(small_net(), skip=["lm_head"])
    with pytest.raises(InvalidConfig, match="bfloat16"):
        EmulatedFormat(name="both", weight="mxint8", dtype="bfloat16")


def test_a_trace_says_that_it_is_emulated():
    data = probes("uniform", n=3, shape=(3, 8, 8))
    trace = emulated_trace("mxint8", small_net(), data)
    plain = emulated_trace("fp32", small_net(), data)
    assert trace.platform["emulated"] == "mxint8"
    assert trace.probe_digest == plain.probe_digest == data.digest
    assert trace.model_digest == plain.model_digest
    assert not torch.equal(trace.outputs, plain.outputs)
    with pytest.raises(UnknownName, match="mxint9"):
        emulated_trace("mxint9", small_net(), data)
