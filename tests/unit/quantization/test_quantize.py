"""Quantisation: real codes behind ordinary parameters."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from holdfast.data import dataset
from holdfast.errors import InvalidConfig, NoSuchSite, UnsupportedFormat
from holdfast.execution import inject
from holdfast.faults import BitErrors
from holdfast.models import build_architecture, card, load, manifest_of, save, select, sites
from holdfast.numerics import bits
from holdfast.numerics.formats import formats
from holdfast.quantization import codes, quantize


@pytest.fixture
def model() -> nn.Module:
    return build_architecture("digits-cnn:channels=4", seed=0).eval()


def test_the_argument_is_left_alone(model: nn.Module) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    small = quantize(model, "int4")
    assert all(bits.bit_equal(value, before[name]) for name, value in model.state_dict().items())
    assert not card(model).lenses
    assert not bits.bit_equal(small.get_parameter("conv1.weight"), model.get_parameter("conv1.weight"))


def test_int8_codes_by_hand(model: nn.Module) -> None:
    weight = model.get_parameter("conv2.weight").detach()
    scale = weight.abs().amax((1, 2, 3), keepdim=True) / 127
    found = codes(quantize(model, "int8"), "conv2.weight")
    assert found.dtype == torch.int8
    assert torch.equal(found, (weight / scale).round().to(torch.int8))


def test_selection(model: nn.Module) -> None:
    small = quantize(model, "rquant8", at="weights:conv*")
    assert set(card(small).lenses) == {"conv1.weight", "conv2.weight", "conv3.weight"}
    found = {site.name: (site.format, site.bits) for site in select(small, "weights")}
    assert found["conv1.weight"][1] == 8
    assert found["norm1.weight"] == ("fp32", 32)
    with pytest.raises(NoSuchSite, match="not stored as codes"):
        codes(small, "norm1.weight")


def test_clip(model: nn.Module) -> None:
    small = quantize(model, "int8", clip=0.05)
    assert small.get_parameter("conv2.weight").abs().max() <= 0.05 * (1 + 1e-6)
    with pytest.raises(InvalidConfig, match="no clip"):
        quantize(model, "fp16", clip=0.05)


@pytest.mark.parametrize("format", ["int8", "int4", "rquant3", "fp64", "fp32", "bf16", "fp8-e4m3fn"])
def test_faults_hit_the_codes_and_leave_again(model: nn.Module, format: str) -> None:
    small = quantize(model, format)
    before = codes(small, "conv3.weight").clone()
    value = small.get_parameter("conv3.weight").detach().clone()
    with inject(small, BitErrors(rate=0.05), seed=1):
        lens = card(small).lenses["conv3.weight"]
        assert bits.hamming_distance(lens.codes, before) > 0
        assert lens.matches(small.get_parameter("conv3.weight"))
    assert torch.equal(codes(small, "conv3.weight"), before)
    assert bits.bit_equal(small.get_parameter("conv3.weight").detach(), value)


@pytest.mark.parametrize("format", formats.names())
def test_every_format_is_injected_undone_saved_and_loaded(model: nn.Module, format: str, tmp_path: Path) -> None:
    small = quantize(model, format)
    digest, found = manifest_of(small).digest, {site.kind for site in sites(small)}
    before = {name: value.detach().clone() for name, value in small.named_parameters()}
    with inject(small, BitErrors(rate=0.05), at="weights, qparams" if "qparams" in found else "weights", seed=1):
        assert not all(bits.bit_equal(value.detach(), before[name]) for name, value in small.named_parameters())
    assert all(bits.bit_equal(value.detach(), before[name]) for name, value in small.named_parameters())
    assert manifest_of(small).digest == digest
    save(small, tmp_path)
    assert manifest_of(load(tmp_path)).digest == digest


def test_lineage_and_artifact(model: nn.Module, tmp_path: object) -> None:
    small = quantize(model, "int4", at="weights:conv*")
    assert card(small).lineage[-1].kind == "quantize"
    save(small, f"{tmp_path}/small")
    again = load(f"{tmp_path}/small")
    assert torch.equal(codes(again, "conv1.weight"), codes(small, "conv1.weight"))
    images = dataset("digits", split="test").take(8).all()[0]
    assert bits.bit_equal(again(images).detach(), small(images).detach())


def test_bad_requests(model: nn.Module) -> None:
    with pytest.raises(InvalidConfig, match="already stored"):
        quantize(quantize(model, "int8"), "int4")
    with pytest.raises(NoSuchSite, match="not a weight"):
        quantize(model, "int8", at="buffers")
    with torch.no_grad():
        model.get_parameter("conv1.weight")[0, 0, 0, 0] = torch.nan
    with pytest.raises(UnsupportedFormat, match=r"conv1\.weight: .* cannot hold NaN"):
        quantize(model, "int8")
    with torch.no_grad():
        model.get_parameter("conv1.weight")[0, 0, 0, 0] = 100.0
    with pytest.raises(UnsupportedFormat, match=r"conv1\.weight: .* beyond 15\.5"):
        quantize(model, "fp8-e3m4")
    with pytest.raises(InvalidConfig, match="no option 'blocks'"):
        quantize(model, "nf4:blocks=3")
