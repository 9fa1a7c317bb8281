"""The population of a model: found by running it, the same under every transform, nothing twice, no silent hole."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from holdfast.errors import InvalidConfig, NoSuchSite
from holdfast.models import attach_guard, build_architecture, card, select, sites
from holdfast.quantization import quantize


class Meddling:
    """A guard that computes a lot: out of place, or in place."""

    kind = "meddling"
    events = None

    def __init__(self, site: str, in_place: bool) -> None:
        self.site, self.in_place = site, in_place

    def __call__(self, x: Tensor) -> Tensor:
        return x.clamp_(-1e9, 1e9) if self.in_place else torch.clamp(x * 1, -1e9, 1e9)

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "site": self.site}


def activations(model: nn.Module, example: Tensor) -> dict[str, tuple[int, ...]]:
    return {site.name: site.shape for site in sites(model, example) if site.kind == "activations"}


def test_stored_bits_are_counted_exactly(digits_net):
    weights = select(digits_net, "weights")
    assert sum(site.numel for site in weights) == sum(p.numel() for p in digits_net.parameters())
    assert all(site.bits == 32 and site.population == 32 * site.numel for site in weights)
    buffers = {site.name for site in select(digits_net, "buffers")}
    assert "norm1.running_var" in buffers
    assert "norm1.num_batches_tracked" not in buffers  # an integer that no inference reads


def test_functional_operations_of_a_residual_block_are_sites():
    model = build_architecture("cifar-resnet20")
    found = activations(model, torch.rand(3, 32, 32))
    assert found["layer1.0/add"] == found["layer1.0/relu"] == found["layer1.0/relu#1"] == (16, 32, 32)
    assert found["layer2.0.shortcut"] == (32, 16, 16)
    assert "layer1.0.shortcut" not in found  # an identity writes nothing
    assert found["/avg_pool2d"] == (64, 1, 1)
    assert "/flatten" not in found  # a view


def test_attention_has_its_products_and_its_softmax():
    found = activations(build_architecture("vit-tiny"), torch.rand(3, 32, 32))
    assert found["blocks.0.attn/matmul"] == found["blocks.0.attn/softmax"] == (4, 65, 65)
    assert found["blocks.0.attn/matmul#1"] == (4, 65, 16)
    assert {"blocks.0/add", "blocks.0/add#1"} <= found.keys()
    assert not any("transpose" in name or "view" in name or "permute" in name for name in found)


@pytest.mark.parametrize("in_place", [False, True])
def test_guards_leave_names_and_populations_alone(network, in_place):
    model, example = network
    plain = sites(model, example)
    guarded = copy.deepcopy(model)
    for site in plain:
        if site.kind == "activations":
            attach_guard(guarded, Meddling(site.name, in_place))
    assert sites(guarded, example) == plain
    assert len(card(guarded).guards) == len(select(model, "activations", example))  # they are back afterwards


def test_quantising_changes_formats_and_adds_scales_and_nothing_else(network):
    model, example = network
    plain, everything = sites(model, example), sites(quantize(model, "int8"), example)
    scales = [s.name for s in everything if s.kind == "qparams"]
    assert scales == [f"{s.name}/scale" for s in plain if s.kind == "weights"]
    small = [s for s in everything if s.kind != "qparams"]
    assert [(s.address, s.shape) for s in plain] == [(s.address, s.shape) for s in small]
    assert {s.bits for s in small if s.kind == "weights"} == {8}
    assert [s for s in plain if s.kind != "weights"] == [s for s in small if s.kind != "weights"]


def test_listing_changes_nothing(digits_net):
    digits_net.train()
    before = {name: value.clone() for name, value in digits_net.state_dict().items()}
    sites(digits_net, torch.rand(1, 8, 8))
    assert digits_net.training
    assert all(torch.equal(before[name], value) for name, value in digits_net.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in digits_net.modules())


def test_in_place_operations_are_sites_once_each(in_place):
    assert list(activations(in_place, torch.rand(4))) == ["fc", "/relu", "/add", "/mul"]


def test_a_module_called_twice_has_two_sites(twice):
    assert list(activations(twice, torch.rand(4))) == ["fc", "fc#1"]


def test_a_module_that_never_computes_is_named(twice):
    with pytest.raises(NoSuchSite, match="idle never computes"):
        select(twice, "activations:idle", torch.rand(4))


def test_tensors_that_hold_no_samples_are_not_sites(recurrent, own_weights):
    assert activations(recurrent, torch.rand(3, 4)) == {"lstm#0.0": (3, 5), "fc": (2,)}  # not the (layers, batch, 5)
    assert activations(own_weights, torch.rand(4)) == {"/matmul": (4,)}  # not the softmax of a parameter


def test_torch_attention_is_counted_though_its_projection_never_fires():
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    found = activations(model, torch.rand(5, 8))
    assert any(name.startswith("self_attn/") for name in found)
    assert found["/add"] == found["/add#1"] == (5, 8)
    with pytest.raises(NoSuchSite, match=r"self_attn\.out_proj never computes"):
        select(model, "activations:self_attn.out_proj", torch.rand(5, 8))


def test_windows_folded_into_the_batch_count_for_one_sample():
    class Windows(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(2, 2)

        def forward(self, x):
            return self.fc(x.reshape(-1, 2)).reshape(len(x), -1)

    assert activations(Windows(), torch.rand(6)) == {"fc": (3, 2)}


def test_a_layer_called_output_is_not_the_output_of_the_model(ends):
    names = [site.address for site in sites(ends, torch.rand(4)) if site.kind in ("activations", "outputs")]
    assert names == ["activations:output", "outputs:output#model"]


def test_sites_are_found_inside_inference_mode(digits_net, in_place):
    example = torch.rand(1, 8, 8)
    outside, written_in_place = sites(digits_net, example), sites(in_place, torch.rand(4))
    with torch.inference_mode():
        assert sites(in_place, torch.rand(4)) == written_in_place
        assert sites(digits_net, example) == outside
        assert sites(build_architecture("digits-cnn"), torch.rand(1, 8, 8)) == outside


def test_selection_speaks_globs_and_keeps_the_order(digits_net):
    both = select(digits_net, "buffers:norm1.*, weights:conv?.weight")
    assert [site.address for site in both] == [
        "weights:conv1.weight",
        "weights:conv2.weight",
        "weights:conv3.weight",
        "buffers:norm1.running_mean",
        "buffers:norm1.running_var",
    ]
    assert select(digits_net, "weights") == select(digits_net, "weights:**")
    assert select(digits_net, "inputs", torch.rand(1, 8, 8))[0].shape == (1, 8, 8)


def test_a_selection_that_matches_nothing_shows_the_nearest(digits_net):
    with pytest.raises(NoSuchSite) as caught:
        select(digits_net, "weights:conv1.wieght")
    assert "conv1.weight" in caught.value.hint
    with pytest.raises(InvalidConfig, match="unknown kind"):
        select(digits_net, "wheights")
    with pytest.raises(InvalidConfig, match="takes a forward pass"):
        select(digits_net, "activations")
