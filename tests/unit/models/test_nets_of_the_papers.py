"""The nets of the bit-error papers: their sizes, their norms, and weights that clipping can hold."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from holdfast.errors import InvalidConfig, UnknownName
from holdfast.models import build_architecture, card, load, manifest_of, save, sites
from holdfast.models.norms import NORMS, ReparameterizedGroupNorm, groups_of, norm_layer
from holdfast.models.whitening import whitening_of
from holdfast.quantization import quantize

SMALL = "simplenet:channels=4,size=16,norm={},whitening=true"


def weights(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("spec", "count"),
    [
        ("simplenet:channels=64,norm=regn,whitening=true", 5_498_378),
        ("simplenet:channels=64,norm=bn", 5_498_378),
        ("simplenet:channels=32,channels_in=1,size=28,norm=regn", 1_082_826),
        ("wide-resnet:channels=16,widen=10,classes=10", 36_489_290),
    ],
)
def test_sizes_are_those_of_the_papers(spec, count):
    assert weights(build_architecture(spec)) == count


def test_twelve_base_channels_make_a_wide_net_of_twenty_million():
    model = build_architecture("wide-resnet:channels=12,norm=regn,whitening=true")
    assert round(weights(model) / 1e6, 1) == 20.6
    with torch.no_grad():
        assert model.eval()(torch.rand(1, 3, 32, 32)).shape == (1, 100)


def test_thirteen_convolutions_each_with_norm_and_relu():
    model = build_architecture("simplenet:channels=8,norm=regn")
    kinds = [type(module) for module in model]
    starts = [place for place, kind in enumerate(kinds) if kind is nn.Conv2d]
    assert len(starts) == 13
    assert all(kinds[place + 1 : place + 3] == [ReparameterizedGroupNorm, nn.ReLU] for place in starts)


@pytest.mark.parametrize(("channels", "groups"), [(64, 32), (256, 32), (48, 24), (120, 24), (12, 6), (4, 2), (7, 1)])
def test_groups_follow_the_rule(channels, groups):
    assert groups_of(channels) == groups


@pytest.mark.parametrize("kind", ["gn", "bn"])
@pytest.mark.parametrize("training", [True, False])
def test_a_reparameterised_norm_is_the_ordinary_one_with_its_scale_shifted(kind, training):
    plain, shifted = norm_layer(kind, 12), norm_layer(f"re{kind}", 12)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for ordinary, own, offset in ((plain.weight, shifted.weight, 1), (plain.bias, shifted.bias, 0)):
            own.copy_(0.1 * torch.randn(12, generator=generator))
            ordinary.copy_(own + offset)
    plain.train(training), shifted.train(training)
    for _ in range(3):
        x = torch.randn(5, 12, 4, 4, generator=generator)
        assert torch.equal(shifted(x), plain(x))
    assert dict(plain.named_buffers()).keys() == dict(shifted.named_buffers()).keys()
    for name, value in plain.named_buffers():
        assert torch.equal(value, shifted.get_buffer(name))


@pytest.mark.parametrize("kind", ["regn", "rebn"])
def test_all_weights_zero_still_let_a_signal_through(kind):
    layer = norm_layer(kind, 8)
    assert all(bool((value == 0).all()) for value in layer.parameters())
    x = torch.randn(4, 8, 3, 3, generator=torch.Generator().manual_seed(0))
    assert math.isclose(float(layer(x).detach().std()), 1, abs_tol=0.02)
    assert not isinstance(layer, nn.GroupNorm | nn.modules.batchnorm._BatchNorm)  # whose scales lie around one


@pytest.mark.parametrize("kind", NORMS)
@torch.no_grad()
def test_every_norm_builds_a_net_that_survives_saving(kind, tmp_path):
    model = build_architecture(SMALL.format(kind)).eval()
    whitening_of(model).set((0.5, 0.4, 0.3), (0.2, 0.3, 0.1))
    save(model, tmp_path / "m")
    again = load(tmp_path / "m")
    x = torch.rand(2, 3, 16, 16)
    assert torch.equal(model(x), again(x))
    assert manifest_of(model) == manifest_of(again)


@pytest.mark.parametrize("kind", ["fixedgn", "fixedbn"])
def test_fixed_norms_learn_nothing(kind):
    assert list(norm_layer(kind, 8).parameters()) == []


def test_weights_are_kaimings_and_come_from_the_seed():
    model = build_architecture("simplenet:channels=64,norm=regn", seed=1)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            fan_in = module.weight[0].numel()
            error = 5 / math.sqrt(2 * module.weight.numel())  # five standard errors of a standard deviation
            assert math.isclose(float(module.weight.detach().std()), math.sqrt(2 / fan_in), rel_tol=error)
            assert bool((module.bias == 0).all())
    same, other = (build_architecture("simplenet:channels=4", seed=seed) for seed in (1, 2))
    assert manifest_of(same) == manifest_of(build_architecture("simplenet:channels=4", seed=1))
    assert manifest_of(same) != manifest_of(other)


def test_whitening_clamps_pixels_and_gives_them_zero_mean_and_unit_variance():
    layer = whitening_of(build_architecture(SMALL.format("regn")))
    x = torch.rand(64, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    layer.set(x.mean((0, 2, 3)).tolist(), x.std((0, 2, 3), correction=0).tolist())
    white = layer(x)
    assert torch.allclose(white.mean((0, 2, 3)), torch.zeros(3), atol=1e-5)
    assert torch.allclose(white.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-5)
    assert torch.equal(layer(x + 5), layer(torch.ones_like(x)))


def test_whitening_is_neither_quantised_nor_hit_nor_trained():
    model = build_architecture(SMALL.format("regn"))
    stored = quantize(model, "rquant4")
    assert len(card(stored).lenses) == len(list(model.parameters()))
    assert {site.name for site in sites(model) if site.kind == "buffers"} == {"0.mean", "0.std"}
    assert not {"0.mean", "0.std"} & {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize(
    ("mean", "std"), [((0.5,), (0.2,)), ((0.5,) * 3, (0.2, 0.0, 0.2)), ((math.nan,) * 3, (1.0,) * 3)]
)
def test_impossible_whitening_is_refused(mean, std):
    with pytest.raises(InvalidConfig, match="whitening"):
        whitening_of(build_architecture(SMALL.format("gn"))).set(mean, std)


def test_wrong_options_are_named():
    with pytest.raises(UnknownName, match="gm") as caught:
        build_architecture("simplenet:norm=gm")
    assert "gn" in caught.value.hint
    with pytest.raises(InvalidConfig, match="positive"):
        build_architecture("simplenet:channels=0")
    with pytest.raises(InvalidConfig, match="6n \\+ 4"):
        build_architecture("wide-resnet:depth=29")
    with pytest.raises(InvalidConfig, match="channel"):
        norm_layer("gn", 0)
