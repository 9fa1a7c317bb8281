"""Steps of fused operators: computed as the operator computes, counted once, tapped by name, and never silent."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from holdfast.errors import InvalidConfig, NoSuchSite
from holdfast.execution import Flips, inject
from holdfast.execution.injection import applied
from holdfast.faults import BitFlip, Corruption
from holdfast.models import Unfused, select, sites
from holdfast.numerics import bits


class Attention(nn.Module):
    """Attention by torch's fused operator, with options."""

    def __init__(self, **options: object) -> None:
        super().__init__()
        self.qkv, self.options = nn.Linear(8, 24), options

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (2, 4)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        if self.options.get("enable_gqa"):
            k, v = k[:, :1], v[:, :1]
        mixed = F.scaled_dot_product_attention(q, k, v, **self.options)
        return mixed.transpose(1, 2).flatten(2)


HIDDEN = torch.zeros(5, 5, dtype=torch.bool).fill_diagonal_(True)
HIDDEN[0, 0] = False  # the first token may look nowhere


class MultiHead(nn.Module):
    def __init__(self, **options: object) -> None:
        super().__init__()
        kwargs = {"batch_first": options.pop("batch_first", True), "bias": options.pop("bias", True)}
        self.attention, self.options = nn.MultiheadAttention(8, 2, **kwargs), options

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, **self.options)[0]


class Grouped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(2, 4)
        nn.init.normal_(self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x[:, :4])


MODELS = {
    "attention": Attention(),
    "causal": Attention(is_causal=True),
    "scaled": Attention(scale=0.3),
    "grouped": Attention(enable_gqa=True),
    "masked": Attention(attn_mask=~HIDDEN),
    "biased": Attention(attn_mask=torch.linspace(-1, 1, 25).view(5, 5)),
    "multi-head": MultiHead(),
    "multi-head without weights": MultiHead(need_weights=False),
    "multi-head tokens first": MultiHead(batch_first=False),
    "multi-head without bias": MultiHead(bias=False),
    "multi-head masked": MultiHead(attn_mask=torch.ones(5, 5, dtype=torch.bool).triu(1)),
    "multi-head padded": MultiHead(key_padding_mask=torch.tensor([[False] * 4 + [True]] * 3)),
    "layer": nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
    "layer, norm first": nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True),
    "layer norm": nn.Sequential(nn.LayerNorm((5, 8))),
    "rms norm": nn.Sequential(nn.RMSNorm(8)),
    "group norm": nn.Sequential(nn.Unflatten(1, (5, 1)), nn.GroupNorm(1, 5), nn.Flatten(1, 2)),
    "groups of channels": nn.Sequential(nn.Linear(8, 6), nn.Unflatten(2, (2, 3)), nn.Flatten(0, 0), Grouped()),
    "batch norm": nn.Sequential(nn.BatchNorm1d(5)),
}


@pytest.mark.parametrize("name", MODELS)
def test_unfused_operators_compute_what_fused_ones_do(name: str) -> None:
    torch.manual_seed(0)
    model = MODELS[name].eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean.uniform_(-1, 1)
            module.running_var.uniform_(0.5, 2)
    x, seen = torch.randn(3, 5, 8), []
    with torch.no_grad():
        fused = model(x)
        with Unfused(model, lambda step, value: seen.append(step) or value):
            unfused = model(x)
        with Unfused(model):
            again = model(x)
    assert seen
    assert torch.allclose(fused, unfused, atol=1e-6)
    assert bits.bit_equal(unfused, again)  # a visit changes nothing
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def internals(model: nn.Module, example: Tensor) -> dict[str, tuple[int, ...]]:
    return {site.name: site.shape for site in select(model.eval(), "internals", example)}


def test_the_steps_are_named_and_shaped() -> None:
    assert internals(MODELS["attention"], torch.rand(5, 8)) == {
        "/scaled_dot_product_attention/scores": (2, 5, 5),
        "/scaled_dot_product_attention/softmax": (2, 5, 5),
        "/scaled_dot_product_attention/av": (2, 5, 4),
    }
    assert internals(nn.Sequential(nn.BatchNorm2d(3)), torch.rand(3, 4, 4)) == {
        "0/batch_norm/mean": (3, 1, 1),
        "0/batch_norm/rstd": (3, 1, 1),
    }
    assert internals(nn.Sequential(nn.RMSNorm(8)), torch.rand(5, 8)) == {"0/rms_norm/rstd": (5, 1)}


def test_no_bit_is_counted_twice_and_other_sites_stay() -> None:
    model, example = MODELS["attention"].eval(), torch.rand(5, 8)
    both = select(model, "internals,activations", example)
    assert "activations:/scaled_dot_product_attention" in [site.address for site in both]
    assert "internals:/scaled_dot_product_attention/av" not in [site.address for site in both]
    everything = sites(model, example, internals=True)
    assert set(sites(model, example)) <= set(everything)  # a step's layout may cost one more copy, never a site
    layer = MODELS["layer"].eval()
    everything = sites(layer, example, internals=True)
    assert [site for site in everything if site.kind != "internals"] == list(sites(layer, example))


def test_the_projection_that_hooks_never_see_can_be_struck() -> None:
    """``TransformerEncoderLayer`` never calls the module ``out_proj``, so an injector by hooks cannot reach it."""
    layer, x = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval(), torch.rand(2, 5, 8)
    (site,) = select(layer, "internals:**/out_proj", x[0])
    flips = Flips(site, torch.tensor([0]), torch.tensor([1 << 30]))
    with torch.no_grad():
        with Unfused(layer):
            golden = layer(x)
        with applied(layer, [flips]):
            faulty = layer(x)
    changed = (bits.int_view(golden) != bits.int_view(faulty)).any(-1)
    assert changed[:, 0].all()  # the struck token of every sample
    assert not changed[:, 1:].any()
    with pytest.raises(NoSuchSite, match="never computes"):
        select(layer, "activations:self_attn.out_proj", x[0])


@pytest.mark.parametrize("step", ["scores", "softmax", "av", "queries", "keys", "values", "mean", "rstd"])
def test_every_step_reaches_the_output(step: str) -> None:
    layer, x = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval(), torch.rand(2, 5, 8)
    with torch.no_grad():
        with Unfused(layer):
            golden = layer(x)
        fault = Corruption(where="row", what="(bit-flip:bit=29)")
        with inject(layer, fault, at=f"internals:**/{step}", example=x[0]):
            faulty = layer(x)
    assert not bits.bit_equal(golden, faulty)


def test_a_step_that_does_not_compute_in_a_pass_is_an_error() -> None:
    class Sometimes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.fc = nn.LayerNorm(4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.norm(x) if bool((x > 0).all()) else x)

    model, example = Sometimes().eval(), torch.ones(4)
    for at in ("internals:norm/**", "activations:norm"):
        with torch.no_grad(), inject(model, BitFlip(), at=at, example=example):
            model(torch.ones(2, 4))
            with pytest.raises(NoSuchSite, match=r"norm.* did not compute"):
                model(-torch.ones(2, 4))
            model(torch.ones(2, 4))  # the next pass is judged by itself


def test_attention_with_added_keys_is_refused() -> None:
    model = nn.MultiheadAttention(8, 2, add_zero_attn=True)
    x = torch.rand(5, 2, 8)
    with pytest.raises(InvalidConfig, match="no internals"), Unfused(model):
        model(x, x, x)


def test_batch_statistics_of_training_stay_those_of_the_batch() -> None:
    model, x, seen = nn.Sequential(nn.BatchNorm1d(4)), torch.randn(6, 4), []
    expected = model(x)
    with Unfused(model, lambda step, value: seen.append(step) or value):
        assert torch.equal(model(x), expected)
    assert not seen


def test_what_needs_another_place_is_said() -> None:
    for at, where in (("cache", "inject_generation"), ("gradients", "inject_training"), ("moments", "inject_training")):
        with pytest.raises(InvalidConfig) as caught:
            select(nn.Linear(2, 2), at)
        assert where in caught.value.hint
