"""Defences hide what they say they hide, at the cost they say; the model itself is never changed."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from holdfast.data import probes
from holdfast.errors import InvalidConfig
from holdfast.execution import Proportion, Trace, predict
from holdfast.identification import LOCAL_PLATFORMS, collect_platforms, trace_on
from holdfast.identification.defence import Noise, OneByOne, RoundOutputs, WideReductions, defend, noise_scale, utility
from holdfast.identification.power import identification_power, nearest
from holdfast.models import build_architecture
from holdfast.seeds import derive

FP32 = ("default", "batch-1", "channels-last", "onednn-off")


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return build_architecture("digits-cnn", seed=0).eval()


@pytest.fixture(scope="module")
def data():
    return probes("uniform", n=16, shape=(1, 8, 8), seed=0)


@pytest.fixture(scope="module")
def references(model, data) -> dict[str, Trace]:
    return collect_platforms(model, data, [*FP32, "bf16"])


def sent(trace: Trace, outputs: torch.Tensor) -> Trace:
    return Trace(outputs, trace.probe_digest, trace.model_digest, {})


def test_few_decimals_hide_fp32_stacks_and_many_do_not(references, data) -> None:
    def power(decimals: int):
        defence = RoundOutputs(decimals=decimals)
        targets = {name: sent(t, defence.send(t.outputs, data.raw)) for name, t in references.items()}
        return identification_power([(references, targets)])

    plain = identification_power([(references, references)])
    assert plain.named.value == plain.nearest.value == 1.0
    assert plain.classes == 5
    coarse, fine = power(3), power(8)
    assert fine.named.value == 1.0
    assert coarse.named.value <= 1 / 5  # bf16 is another network to the eye
    assert coarse.wrong.value == 0.0


def test_a_defended_model_is_a_model_and_the_original_stays(model, data) -> None:
    before = predict(model, data)
    served = predict(defend(model, RoundOutputs(decimals=2)), data)
    assert torch.equal((served * 100).round() / 100, served)
    assert torch.equal(predict(model, data), before)
    cost = utility(before, served)
    assert 0 < cost.largest <= 0.005 + 1e-6
    assert cost.changed.n == 16
    with pytest.raises(InvalidConfig, match="nothing to defend"):
        defend(model)


def test_one_by_one_hides_the_load(model, data) -> None:
    served = defend(model, OneByOne())
    batches = [predict(served, data, batch_size=size) for size in (1, 5, 16)]
    assert torch.equal(batches[0], batches[1])
    assert torch.equal(batches[0], batches[2])
    assert not torch.equal(predict(model, data, batch_size=1), predict(model, data, batch_size=16))


def test_wide_reductions_merge_fp32_stacks(model, data) -> None:
    served = defend(model, WideReductions())
    outputs = [trace_on(LOCAL_PLATFORMS[name], served, data).outputs for name in FP32[:2]]
    assert torch.equal(outputs[0], outputs[1])
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert float((outputs[0] - predict(model, data)).abs().max()) < 1e-5


def test_noise_is_the_requests_own_so_that_averaging_is_no_use(references, data) -> None:
    noise = Noise(scale=1e-3, secret=derive(1, "secret"))
    outputs = references["default"].outputs
    once, again = noise.send(outputs, data.raw), noise.send(outputs, data.raw)
    assert torch.equal(once, again)
    assert not torch.equal(once, Noise(scale=1e-3, secret=derive(2, "secret")).send(outputs, data.raw))
    drawn = ((once - outputs) / 1e-3).reshape(-1).numpy()
    assert stats.kstest(drawn, "norm").pvalue > 0.01


def test_the_best_adversary_is_right_as_often_as_the_bound_allows(references, data) -> None:
    """Two stacks, Gaussian noise: nearest in least squares is the likelihood ratio test, which nothing beats."""
    pair = {name: references[name].outputs for name in ("default", "onednn-off")}
    scale = noise_scale(list(pair.values()), advantage=0.2)
    classes = [((name,), outputs) for name, outputs in pair.items()]
    right, n = 0, 0
    for seed in range(400):
        noise = Noise(scale=scale, secret=derive(seed, "secret"))
        for name, outputs in pair.items():
            wide = outputs.double() + (noise.send(torch.zeros_like(outputs), data.raw)).double()
            best = min(classes, key=lambda item: float((item[1].double() - wide).square().sum()))[0]
            right, n = right + (best == (name,)), n + 1
    rate = Proportion.clopper_pearson(right, n)
    assert rate.low <= 0.6 <= rate.high
    assert nearest(classes, pair["default"]) == ("default",)


def test_scales_that_hide_nothing_are_refused(references) -> None:
    with pytest.raises(InvalidConfig, match="advantage"):
        noise_scale([references["default"].outputs] * 2, advantage=1.0)
    with pytest.raises(InvalidConfig, match="two references"):
        noise_scale([references["default"].outputs], advantage=0.1)
    with pytest.raises(InvalidConfig, match="not negative"):
        Noise(scale=math.nan, secret=derive(0, "s"))
    with pytest.raises(InvalidConfig, match="one experiment"):
        identification_power([])
