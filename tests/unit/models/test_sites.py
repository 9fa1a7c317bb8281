"""Sites: found by running, named for ever, counted once."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from holdfast.data import dataset
from holdfast.errors import InvalidConfig, NoSuchSite
from holdfast.hardening import RangeRestriction, harden, profile
from holdfast.models import build_architecture, card, select, sites, tap
from holdfast.quantization import quantize

NETS = {"digits-cnn": (1, 8, 8), "cifar-resnet20": (3, 32, 32), "vit-tiny": (3, 32, 32), "lenet": (1, 28, 28)}


@pytest.fixture(params=list(NETS))
def net(request: pytest.FixtureRequest) -> nn.Module:
    return build_architecture(request.param, seed=1).eval()


def example(model: nn.Module) -> torch.Tensor:
    shape = card(model).input_shape
    assert shape is not None
    return torch.linspace(-1, 1, torch.Size(shape).numel()).view(shape)


def test_identity_taps_fire_everywhere_and_change_no_bit(net: nn.Module) -> None:
    places = select(net, "activations", example(net))
    batch = torch.randn(3, *example(net).shape, generator=torch.Generator().manual_seed(0))
    seen: dict[str, tuple[int, ...]] = {}
    with torch.no_grad():
        plain = net(batch)
        taps = {site.name: lambda x, name=site.name: (seen.update({name: tuple(x.shape)}), x)[1] for site in places}
        with tap(net, taps):
            tapped = net(batch)
        again = net(batch)
    assert torch.equal(plain, tapped)
    assert torch.equal(plain, again)
    assert {site.name: (3, *site.shape) for site in places} == seen


def test_a_change_at_any_place_reaches_the_output(net: nn.Module) -> None:
    batch = example(net).unsqueeze(0)
    for site in select(net, "activations", example(net)):
        with torch.no_grad():
            plain = net(batch)
            with tap(net, {site.name: lambda x: x * 0 + torch.nan}):
                assert torch.isnan(net(batch)).any(), site.name
            assert torch.equal(net(batch), plain)


def test_functional_operations_have_names() -> None:
    vit = build_architecture("vit-tiny").eval()
    names = {site.name for site in select(vit, "activations", example(vit))}
    assert {"blocks.0.attn/matmul", "blocks.0.attn/softmax", "blocks.0.attn/matmul#1", "blocks.0/add#1"} <= names
    digits = build_architecture("digits-cnn").eval()
    assert {"relu", "relu#1", "relu#2", "/add", "/mean"} <= {
        s.name for s in select(digits, "activations", example(digits))
    }


def test_population_is_the_same_for_plain_hardened_and_copied_models() -> None:
    model = build_architecture("digits-cnn").eval()
    data = dataset("digits").take(16)
    tough = harden(model, RangeRestriction(profile(model, data, at="activations")))
    expected = sites(model, data.example)
    assert sites(tough, data.example) == expected
    assert sites(copy.deepcopy(tough), data.example) == expected
    assert sum(site.numel for site in select(model, "weights")) == sum(p.numel() for p in model.parameters())


def test_quantised_weights_have_the_bits_they_are_stored_in() -> None:
    small = quantize(build_architecture("digits-cnn"), "int4", at="weights:conv*")
    bits = {site.name: site.bits for site in select(small, "weights")}
    assert bits["conv1.weight"] == 4
    assert bits["fc.weight"] == 32


class InPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 1)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.conv(x)
        out += x
        return self.act(out).flatten(1)


def test_in_place_operations_are_sites_and_views_are_not() -> None:
    model = InPlace().eval()
    names = [site.name for site in select(model, "activations", torch.ones(1, 2, 2))]
    assert names == ["conv", "/add", "act"]


def test_a_module_that_never_computes_is_refused_by_name() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    inputs = torch.ones(3, 8)
    assert "self_attn.out_proj" not in {site.name for site in sites(layer, inputs)}
    with pytest.raises(NoSuchSite, match=r"self_attn\.out_proj never computes"):
        select(layer, "activations:self_attn.out_proj", inputs)


def test_selection_errors_say_what_is_near() -> None:
    model = build_architecture("digits-cnn")
    with pytest.raises(NoSuchSite) as caught:
        select(model, "weights:conv1.wieght")
    assert "conv1.weight" in caught.value.hint
    with pytest.raises(InvalidConfig, match="kind"):
        select(model, "weight:conv1")
    with pytest.raises(InvalidConfig, match="forward pass"):
        select(model, "activations")
