"""Exported models: the same bits in any batch, bounds that hold, clamps that bite, and refusals that help."""

from __future__ import annotations

import copy
import functools
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from holdfast.data import dataset
from holdfast.errors import InvalidConfig
from holdfast.execution import campaign
from holdfast.faults import BitFlip
from holdfast.models import build_architecture, card
from holdfast.quantization import codes, quantize
from holdfast.shielding import Int8Conv2d, int8_model, integer_layers, shield
from holdfast.shielding.graph import IntegerModel, export
from holdfast.shielding.integer import accumulator_bound
from tests.unit.shielding.graph.nets import (
    NETS,
    AcrossSamples,
    Branching,
    FixedBatch,
    Sorting,
    inputs,
    seeded,
)


@functools.cache
def exported(name: str, top_code: int = 127) -> tuple[nn.Module, IntegerModel]:
    model = NETS[name][0]().eval()
    return model, export(model, inputs(name, 1), inputs(name, 16, seed=2), top_code=top_code)


@pytest.mark.parametrize("name", NETS)
def test_the_bits_depend_on_the_sample_alone(name: str) -> None:
    _, model = exported(name)
    x = inputs(name, 6)
    whole = model(x)
    assert torch.equal(model(x), whole)
    assert torch.equal(torch.cat([model(one) for one in x.split(1)]), whole)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    assert torch.equal(model(x[order]), whole[order])
    torch.set_num_threads(2)
    try:
        assert torch.equal(model(x), whole)
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("name", NETS)
def test_close_to_the_float_model(name: str) -> None:
    model, integer = exported(name)
    x = inputs(name, 6)
    expected = model(x).detach()
    assert (integer(x) - expected).norm() < 0.06 * expected.norm()


@pytest.mark.parametrize("name", ["mobilenet", "vit", "llama"])
def test_every_bound_is_reached_by_the_worst_codes_and_never_passed(name: str) -> None:
    _, model = exported(name)
    for path, layer in integer_layers(model).items():
        rows = layer.codes.flatten(1).long()
        worst = layer.top_code * rows.sign()
        assert int((worst * rows).sum(1).max()) == layer.bound == model.bounds()[path] < 2**31


@pytest.mark.parametrize("top_code", [1, 64, 127])
def test_the_reduced_range_is_enforced_at_run_time(top_code: int) -> None:
    # the released code of TSQP saturates at 255 whatever range it was told, so its sums can overflow
    _, model = exported("mobilenet", top_code)
    seen: dict[str, int] = {}
    layers = integer_layers(model)
    encode = {name: layer.encode for name, layer in layers.items()}
    trial = copy.deepcopy(model)
    for name, layer in integer_layers(trial).items():
        layer.accumulate = functools.partial(_watched, seen, name, layer.accumulate)  # type: ignore[method-assign]
    trial(1000.0 * inputs("mobilenet", 4))
    assert set(seen) == set(layers)
    assert max(seen.values()) == top_code
    assert int(encode["stem.0"](torch.full((1, 3, 2, 2), torch.inf)).max()) == top_code


def _watched(seen: dict[str, int], name: str, accumulate: object, x: Tensor) -> Tensor:
    seen[name] = int(x.long().abs().max())
    return accumulate(x)  # type: ignore[operator, no-any-return]


def test_the_top_code_is_the_calibrated_peak_and_is_not_halved() -> None:
    # the released code halves a custom range once more: asked for 127 it computes with 64
    x = inputs("mobilenet", 16, seed=2)
    for top in (127, 64):
        _, model = exported("mobilenet", top)
        stem = integer_layers(model)["stem.0"]
        assert int(stem.encode(x).long().abs().max()) == top == model.top_code
        assert float(stem.activation_scale) == pytest.approx(float(x.abs().max()) / top)
        assert card(model).lineage[-1].parameters["top_code"] == top


def test_batch_normalisation_is_folded_where_a_convolution_precedes_it() -> None:
    model, integer = exported("mobilenet")
    assert not [step for step in integer.steps if "norm" in step.target]
    slope = model.stem[1].weight.double() / (model.stem[1].running_var.double() + 1e-5).sqrt()
    folded = (model.stem[0].weight.double() * slope.view(-1, 1, 1, 1)).float().detach()
    stem = integer_layers(integer)["stem.0"]
    decoded = stem.codes.float() * stem.weight_scale.view(-1, 1, 1, 1)
    assert (decoded - folded).abs().max() <= 0.5001 * float(stem.weight_scale.max())
    bias = (model.stem[1].bias.double() - model.stem[1].running_mean.double() * slope).float()
    assert torch.allclose(stem.bias, bias, rtol=1e-6)
    assert [step.name for step in integer.steps if step.target == "exact.scaled"]  # the one that nothing precedes


def test_depthwise_and_grouped_convolutions_stay_trusted() -> None:
    _, model = exported("mobilenet")
    assert list(integer_layers(model)) == ["stem.0", "expand.0", "squeeze", "excite", "project", "head"]
    operations = {step.path: step.operation for step in model.steps}
    assert (operations["depthwise.0"], operations["grouped"]) == ("depthwise", "grouped-conv2d")
    assert isinstance(model.get_submodule("stem.0"), Int8Conv2d)


@pytest.mark.parametrize("name", ["llama", "causal", "bool", "float"])
def test_no_token_sees_the_future(name: str) -> None:
    _, model = exported(name)
    x = inputs(name, 2)
    other = x.clone()
    other[:, -1] = inputs(name, 2, seed=9)[:, -1]
    assert torch.equal(model(other)[:, :-1], model(x)[:, :-1])
    assert not torch.equal(model(other)[:, -1], model(x)[:, -1])


@pytest.mark.parametrize("name", ["mobilenet", "llama"])
def test_a_session_with_another_process_gives_the_same_bits(name: str) -> None:
    _, model = exported(name)
    x = inputs(name, 3)
    with shield(model) as session:
        assert torch.equal(session(x), model(x))


def test_copies_and_reloaded_weights_compute_the_same() -> None:
    _, model = exported("vit")
    x = inputs("vit", 2)
    twin = copy.deepcopy(model)
    for value in twin.state_dict().values():
        value.zero_()
    assert not torch.equal(twin(x), model(x))
    twin.load_state_dict(model.state_dict())
    assert torch.equal(twin(x), model(x))


def test_stored_codes_are_kept_where_nothing_is_folded_into_them() -> None:
    small = quantize(build_architecture("vit-tiny:depth=1,dim=16"), "int8")
    model = export(small, inputs("vit", 1), inputs("vit", 4))
    assert torch.equal(integer_layers(model)["head"].codes, codes(small, "head.weight"))


def test_agrees_with_the_int8_model_layer_by_layer() -> None:
    # one encoding, one calibration: without batch normalisation both ways make the same integers
    net = seeded(lambda: nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10)))
    data = dataset("digits", split="train").take(40)
    ours, theirs = (make(data) for make in (lambda d: export(net, d.all()[0][:1], d), lambda d: int8_model(net, d)))
    for name, layer in integer_layers(theirs).items():
        assert torch.equal(layer.codes, integer_layers(ours)[name].codes)
        assert torch.equal(layer.activation_scale, integer_layers(ours)[name].activation_scale)
    assert torch.equal(ours(data.all()[0]), theirs(data.all()[0]))


@pytest.mark.parametrize(
    ("net", "message", "hint"),
    [
        (Branching, r"torch\.export stops in forward \(nets\.py:\d+\)", "branch"),
        (Sorting, r"node 'cumprod' \(aten\.cumprod\.default\) in module 'inner\.1' \(nets\.py:\d+\)", "int8_model"),
        (FixedBatch, "only takes batches of 2", "dimension 0"),
        (AcrossSamples, r"node 'mean' .* mixes the samples of a batch", "one sample"),
    ],
)
def test_a_model_that_cannot_be_exported_is_refused_by_node(net: type[nn.Module], message: str, hint: str) -> None:
    with pytest.raises(InvalidConfig, match=message) as refused:
        export(seeded(net), torch.randn(2, 4), torch.randn(2, 4))
    assert hint in refused.value.hint


def test_bad_calibration_is_refused() -> None:
    net, x = seeded(lambda: nn.Sequential(nn.Linear(4, 2))), torch.randn(3, 4)
    with pytest.raises(InvalidConfig, match="no sample"):
        export(net, x, [])
    with pytest.raises(InvalidConfig, match=r"node 'linear' .* not finite"):
        export(net, x, torch.full((1, 4), torch.nan))
    with pytest.raises(InvalidConfig, match=r"1 \.\. 127, not 128"):
        export(net, x, x, top_code=128)
    with pytest.raises(InvalidConfig, match="no convolution or linear layer"):
        export(nn.ReLU(), x, x)


def test_calibration_on_the_test_split_is_refused() -> None:
    test = dataset("digits", split="test").take(4)
    with pytest.raises(InvalidConfig, match="fit the model to the data it is measured on"):
        export(build_architecture("digits-cnn"), test.all()[0], test)


def test_a_sum_that_could_overflow_is_refused() -> None:
    fits = torch.full((1, 133_144), 127, dtype=torch.int8)
    assert accumulator_bound(fits, 127, layer="fc") == 133_144 * 127 * 127 < 2**31
    wide = torch.full((1, 133_152), 127, dtype=torch.int8)
    with pytest.raises(InvalidConfig, match="'fc' sums 133152 products") as refused:
        accumulator_bound(wide, 127, layer="fc")
    assert "--top-code" in refused.value.hint
    assert accumulator_bound(wide, 64, layer="fc") == 133_152 * 64 * 127


def test_every_lie_about_an_exported_model_is_detected() -> None:
    data = dataset("digits", split="train").take(24)
    model = export(build_architecture("digits-cnn"), data.all()[0][:1], data)
    with shield(model) as session:
        report = campaign(session, data.take(4), BitFlip(), at="offload:**", trials=12, seed=0)
    assert report["detected"].value == 1.0


class TwoReasons(nn.Module):
    """Cannot be exported for two reasons, with two ways out."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(self.fc(x)) ** 0.3  # type: ignore[no-any-return]


def test_every_node_that_cannot_be_exported_is_told_with_its_own_way_out() -> None:
    x = torch.rand(4, 4, generator=torch.Generator().manual_seed(0))
    with pytest.raises(InvalidConfig) as caught:
        export(TwoReasons(), x[:1], x)
    first, second, third = str(caught.value).split("\n")
    assert first == "2 nodes cannot be exported"
    assert "aten.sin.default" in second
    assert "replace the operation" in second
    assert "aten.pow.Tensor_Scalar" in third
    assert "exact powers" in third
    assert "each line" in caught.value.hint


class Counts(nn.Module):
    """How many features are above zero chooses a row, as the length of a text does."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.rows = nn.Linear(8, 6), nn.Embedding(7, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.fc(x)
        chosen: torch.Tensor = self.rows((y > 0).sum(1))
        return chosen


def test_a_sum_of_whole_numbers_stays_whole_and_may_choose() -> None:
    model = Counts().eval()
    integer = export(model, torch.rand(2, 8), torch.rand(64, 8))
    x = torch.randn(16, 8)
    codes = integer.get_submodule("fc")(x)
    assert torch.equal(integer(x), model.rows((codes > 0).sum(1)))
    assert torch.equal(torch.cat([integer(one) for one in x.split(1)]), integer(x))


class SequenceFirst(nn.Module):
    """Attention as torch has it, which turns batches over, and a mean along what is then the first side."""

    def __init__(self) -> None:
        super().__init__()
        self.attend, self.head = nn.MultiheadAttention(16, 4, batch_first=True), nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mixed = self.attend(x, x, x, need_weights=False)[0]
        scores: torch.Tensor = self.head(mixed.transpose(0, 1).mean(0))
        return scores


def test_batches_need_not_come_first_inside(tmp_path: Path) -> None:
    """A layer's sample is that of one input, whatever the size of the batches in calibration."""
    model = SequenceFirst().eval()
    x = torch.rand(16, 6, 16, generator=torch.Generator().manual_seed(5))
    integer = export(model, x[:1], x)
    integer.save(tmp_path / "model")
    again = IntegerModel.load(tmp_path / "model")
    assert torch.equal(again(x), integer(x))
    assert torch.equal(torch.cat([again(one) for one in x.split(1)]), again(x))
    assert (again(x) - model(x)).norm() < 0.05 * model(x).norm()
