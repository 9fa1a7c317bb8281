"""Calibrated range guards: what they learn, what they refuse, and that they compose."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from holdfast.data import Dataset, dataset
from holdfast.errors import DigestMismatch, InvalidConfig, NoSuchSite
from holdfast.execution import predict
from holdfast.hardening import (
    Bounds,
    RangeProtection,
    RangeRestriction,
    calibrate,
    harden,
    methods,
    place,
    profile,
)
from holdfast.models import card, load, manifest_of, save, tap
from holdfast.numerics.bits import bit_equal
from tests.unit.hardening.families import BIG_IMAGE, IMAGE, MaxVit, Transformer


@pytest.fixture(scope="module")
def train() -> Dataset:
    return dataset("digits", split="train")


def images(shape: torch.Size, count: int = 40) -> Dataset:
    raw = torch.rand((count, *shape), generator=torch.Generator().manual_seed(1))
    return Dataset("noise", raw, torch.zeros(count, dtype=torch.int64), ("a", "b", "c", "d", "e"))


def test_ranges_are_those_of_the_data(trained: nn.Module, train: Dataset):
    found = calibrate(trained, train, ["conv1", "fc"], per="channel").sites
    with torch.no_grad():
        logits, conv = trained(train.all()[0]), trained.conv1(train.all()[0])
    assert torch.allclose(found["fc"].high, logits.amax(0).double())
    assert torch.allclose(found["fc"].low, logits.amin(0).double())
    assert torch.allclose(found["fc"].mean, logits.double().mean(0), atol=1e-5)
    assert torch.allclose(found["conv1"].high, conv.amax((0, 2, 3)).double(), atol=1e-6)
    assert found["conv1"].dim == 1
    assert found["conv1"].count == conv.numel()


def test_a_quantile_leaves_out_that_share_of_samples(trained: nn.Module, train: Dataset):
    """The bound is an order statistic of the samples' maxima: ceil((n + 1) q) of n."""
    bound = calibrate(trained, train, ["fc"], quantile=0.9).sites["fc"].high
    peaks = predict(trained, train).amax(1)
    assert int((peaks <= bound).sum()) == math.ceil((len(train) + 1) * 0.9)
    tightest = calibrate(trained, train, ["fc"], quantile=1.0).sites["fc"].high
    assert tightest == peaks.max()


def test_channels_and_tokens_lie_where_the_family_keeps_them():
    torch.manual_seed(0)
    vit, maxvit = Transformer().eval(), MaxVit().eval()
    tokens = calibrate(vit, images(IMAGE.shape), place(vit, IMAGE).sites, per="token").sites
    assert tokens["blocks.0/add"].dim == 1
    assert len(tokens["blocks.0/add"].low) == 16
    assert tokens["head"].dim is None
    channels = calibrate(maxvit, images(BIG_IMAGE.shape), place(maxvit, BIG_IMAGE).sites, per="channel").sites
    assert {name: len(item.low) for name, item in channels.items()} == dict.fromkeys(channels, 12) | {"head": 5}
    assert (channels["conv/add"].dim, channels["block/add"].dim, channels["block.mlp.fc2"].dim) == (1, -1, -1)
    with pytest.raises(InvalidConfig, match="no one dimension of tokens"):
        calibrate(maxvit, images(BIG_IMAGE.shape), ["conv/add"], per="token")


@pytest.mark.parametrize("per", ["tensor", "channel", "element"])
@pytest.mark.parametrize("action", ["clip", "zero", "resample", "recompute"])
def test_specifications_build_and_keep_clean_bits(trained: nn.Module, train: Dataset, per: str, action: str):
    found = methods.build(f"range:per={per},action={action},slack=1.3").calibrated(trained, train)
    hardened = harden(trained, found)
    assert bit_equal(predict(hardened, train), predict(trained, train))
    assert [guard.site for guard in card(hardened).guards] == list(place(trained, train.example).sites)
    with torch.no_grad(), tap(hardened, {"/add": lambda value: value.fill_(torch.nan)}):
        assert hardened(train.take(4).all()[0]).isfinite().all()
    assert all(guard.events is not None for guard in card(hardened).guards)


def test_bounds_of_another_model_are_refused(trained: nn.Module, train: Dataset):
    other = copy.deepcopy(trained)
    with torch.no_grad():
        other.fc.bias[0] += 1
    with pytest.raises(DigestMismatch, match="another model"):
        harden(other, RangeProtection(calibration=calibrate(trained, train, ["fc"])))
    with pytest.raises(DigestMismatch, match="another model"):
        harden(other, RangeRestriction(profile(trained, train)))


def test_guards_of_the_model_do_not_make_it_another(trained: nn.Module, train: Dataset):
    once = harden(trained, RangeRestriction(profile(trained, train)))
    found = calibrate(trained, train, ["fc"])
    assert len(card(harden(once, RangeProtection(calibration=found))).guards) == len(card(once).guards) + 1


@pytest.mark.parametrize(("dtype", "fits"), [(torch.float16, False), (torch.bfloat16, True)])
def test_bounds_that_do_not_fit_are_refused_when_hardening(trained: nn.Module, dtype: torch.dtype, fits: bool):
    """MaxViT's published bounds, -86849 and 45837, overflow half precision; bfloat16 holds them."""
    model = copy.deepcopy(trained).to(dtype)
    hardening = RangeRestriction(Bounds({"fc": (-66806.8, 35259.4, 1)}), slack=1.3)
    if fits:
        assert len(card(harden(model, hardening)).guards) == 1
        return
    with pytest.raises(InvalidConfig, match="fc does not fit float16, whose limit is 65504"):
        harden(model, hardening)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_bounds_are_rounded_outwards_to_the_numbers_of_the_site(dtype: torch.dtype):
    """Rounded to nearest, a bound can fall inside the clean values and fire on them."""
    torch.manual_seed(0)
    model = Transformer().to(dtype).eval()

    class Cast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x.to(dtype)).float()

    net, data = Cast().eval(), images(IMAGE.shape)
    found = calibrate(net, data, place(net, IMAGE).sites, per="channel")
    hardened = harden(net, RangeProtection(calibration=found, slack=1.0000001))
    with torch.no_grad():
        hardened(data.all()[0])
    assert sum(int(guard.events.sum()) for guard in card(hardened).guards) == 0
    with pytest.raises(InvalidConfig, match="does not fit"):
        harden(net, RangeProtection(calibration=found, slack=1e39 if dtype == torch.bfloat16 else 1e6))


def test_hardenings_compose(trained: nn.Module, train: Dataset, tmp_path):
    first = RangeProtection(calibration=calibrate(trained, train, ["fc"]), slack=2.0)
    second = RangeProtection(calibration=calibrate(trained, train, ["fc", "/add"], per="channel"), action="zero")
    hardened = harden(trained, first, second)
    assert [guard.site for guard in card(hardened).guards] == ["fc", "fc", "/add"]
    steps = [step for step in card(hardened).lineage if step.kind == "harden"]
    assert [step.parameters["action"] for step in steps] == ["clip", "zero"]
    assert steps[0].inputs["model"] == manifest_of(trained).digest != steps[1].inputs["model"]
    save(hardened, tmp_path / "m")
    assert manifest_of(load(tmp_path / "m")).digest == manifest_of(hardened).digest


def test_bad_calls(trained: nn.Module, train: Dataset):
    with pytest.raises(InvalidConfig, match="nothing to harden"):
        harden(trained)
    with pytest.raises(InvalidConfig, match="from clean data"):
        methods.build("range").calibrated(trained, None)
    with pytest.raises(InvalidConfig, match="quantile"):
        calibrate(trained, train, ["fc"], quantile=0.2)
    with pytest.raises(InvalidConfig, match="at least 1"):
        methods.build("range:slack=0.5").calibrated(trained, train)
    with pytest.raises(NoSuchSite):
        calibrate(trained, train, ["nowhere"])
    with pytest.raises(InvalidConfig, match="'explode'"):
        methods.build("range:action=explode")
