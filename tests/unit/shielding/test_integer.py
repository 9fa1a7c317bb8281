"""The plaintext int8 model: exact, close to the float one, and honest about what it leaves alone."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from holdfast.data import dataset
from holdfast.errors import InvalidConfig
from holdfast.models import card
from holdfast.shielding import Int8Conv2d, Int8Linear, int8_model, integer_layers, shield
from holdfast.shielding.graph import export
from holdfast.shielding.integer import accumulator_bound, geometry_of
from holdfast.shielding.product import Geometry, integer_product, ring_product
from tests.unit.shielding.nets import digits_net, images, integer_net

CONVS = [
    nn.Conv2d(3, 5, 3),
    nn.Conv2d(3, 5, 3, stride=2, padding=1),
    nn.Conv2d(2, 4, (1, 3), padding=(0, 1), dilation=(1, 2)),
    nn.Conv2d(3, 4, (2, 4), padding="same"),
    nn.Conv2d(4, 2, 1, stride=3),
    nn.Conv2d(1, 1, 7, padding=3, stride=(1, 4)),
]


def codes_for(layer: nn.Module, batch: int) -> tuple[Geometry, torch.Tensor, torch.Tensor]:
    geometry = geometry_of(layer)
    assert geometry is not None
    generator = torch.Generator().manual_seed(3)
    sample = (geometry.in_channels, 9, 8) if geometry.kind == "conv2d" else (7, geometry.in_channels)
    weights = torch.randint(-128, 128, geometry.weight_shape, generator=generator, dtype=torch.int8)
    x = torch.randint(-(2**31), 2**31, (batch, *sample), generator=generator).to(torch.int32)
    return geometry, weights, x


@pytest.mark.parametrize("layer", CONVS, ids=repr)
@pytest.mark.parametrize("batch", [1, 16])
def test_ring_convolution_equals_big_integer_arithmetic(layer: nn.Conv2d, batch: int) -> None:
    geometry, weights, x = codes_for(layer, batch)
    # two exact float64 convolutions of 16-bit halves, recombined in Python's own modulus
    low, high = (x & 0xFFFF).double(), (x >> 16).double()

    def convolve(half: torch.Tensor) -> torch.Tensor:
        return F.conv2d(F.pad(half, geometry.padding), weights.double(), None, layer.stride, 0, layer.dilation).long()

    expected = (convolve(low) + (convolve(high) << 16)).to(torch.int32)
    got = ring_product(x, weights, geometry)
    assert got.dtype == torch.int32
    assert got.shape[1:] == geometry.output_shape(tuple(x.shape[1:]))
    assert torch.equal(got, expected)


@pytest.mark.parametrize("layer", [*CONVS, nn.Linear(300, 11), nn.Linear(5000, 3)], ids=repr)
def test_integer_product_agrees_with_the_ring(layer: nn.Module) -> None:
    geometry, weights, x = codes_for(layer, 4)
    x = x.remainder(255).sub(127).to(torch.int8)
    assert torch.equal(integer_product(x, weights, geometry), ring_product(x.int(), weights, geometry))


def test_ring_product_of_many_terms_is_exact() -> None:
    geometry = Geometry(kind="linear", out_channels=2, in_channels=70_000)
    x = torch.full((1, 70_000), -(2**31), dtype=torch.int32)
    x[0, ::2] = 2**31 - 1
    weights = torch.full((2, 70_000), -128, dtype=torch.int8)
    weights[1] = 127
    expected = [sum(map(int, x[0].tolist())) * w for w in (-128, 127)]
    assert ring_product(x, weights, geometry)[0].tolist() == [(v + 2**31) % 2**32 - 2**31 for v in expected]


def test_bound_is_proved_where_int32_would_overflow() -> None:
    most = torch.full((1, 133_152), 127, dtype=torch.int8)
    assert accumulator_bound(most[:, :133_144], 127, layer="fc") == 133_144 * 127 * 127 < 2**31
    with pytest.raises(InvalidConfig, match="'fc' sums 133152 products"):
        accumulator_bound(most, 127, layer="fc")
    most[0, 1::2] = -127  # signs do not help: what counts are magnitudes
    with pytest.raises(InvalidConfig, match="could overflow int32"):
        accumulator_bound(most, 127, layer="fc")


def test_the_way_out_of_an_overflow_is_one_that_there_is() -> None:
    wide = nn.Linear(133_152, 1, bias=False)
    nn.init.ones_(wide.weight)
    x = torch.ones(2, 133_152)
    with pytest.raises(InvalidConfig, match="could overflow int32") as refused:
        int8_model(wide, x)
    assert "graph.export" in refused.value.hint  # int8_model has no top code to lower
    assert export(wide, x[:1], x, top_code=64).bounds() == {"linear": 133_152 * 64 * 127}


def test_close_to_the_float_model_and_the_argument_is_left_alone() -> None:
    model, batch = digits_net(), images(16)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    expected = model(batch)
    got = int8_model(model, images(32, seed=2))(batch)
    assert (got - expected).abs().max() < 0.05 * expected.abs().max()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert isinstance(model.stem, nn.Conv2d)


def test_every_plain_convolution_and_linear_layer_is_replaced_and_no_other() -> None:
    model = integer_net()
    assert list(integer_layers(model)) == ["stem", "body", "down", "head"]
    assert isinstance(model.stem, Int8Conv2d)
    assert isinstance(model.head, Int8Linear)
    assert type(model.depthwise) is nn.Conv2d
    assert card(model).lineage[-1].parameters["layers"] == 4


def test_calibration_takes_a_dataset_a_batch_or_batches() -> None:
    data = dataset("digits", split="test").take(20)
    model = digits_net()
    whole = int8_model(model, data).state_dict()
    assert all(torch.equal(v, whole[k]) for k, v in int8_model(model, data.all()[0]).state_dict().items())
    halves = iter(data.all()[0].split(7))
    assert all(torch.equal(v, whole[k]) for k, v in int8_model(model, halves).state_dict().items())


def test_bad_calibration_and_models_without_linear_maps_are_refused() -> None:
    with pytest.raises(InvalidConfig, match="no sample"):
        int8_model(digits_net(), [])
    with pytest.raises(InvalidConfig, match="'stem' saw a value that is not finite"):
        int8_model(digits_net(), torch.full((1, 1, 8, 8), torch.nan))
    with pytest.raises(InvalidConfig, match="no convolution or linear layer"):
        int8_model(nn.Sequential(nn.ReLU()), torch.rand(2, 3))


def test_encoding_saturates_and_has_no_nan() -> None:
    layer = int8_model(nn.Sequential(nn.Linear(4, 2)), torch.tensor([[1.27, 0.0, 0.0, 0.0]]))[0]
    x = torch.tensor([[torch.nan, torch.inf, -torch.inf, 0.025]])
    assert layer.encode(x).tolist() == [[0, 127, -127, 2]]


def test_a_dead_input_still_has_a_scale() -> None:
    model = int8_model(nn.Sequential(nn.Linear(4, 2)), torch.zeros(3, 4))
    assert torch.isfinite(model(torch.ones(1, 4))).all()


@pytest.mark.parametrize("format", ["int16", "fixed-point:granularity=group,group=8"])
def test_codes_that_are_no_int8_per_channel_are_encoded_again(format: str) -> None:
    from holdfast.numerics.formats import formats
    from holdfast.quantization import quantize

    small = quantize(digits_net(), format)
    weight = small.get_parameter("head.weight").detach()
    expected = formats.build("int8").encode(weight)
    assert torch.equal(int8_model(small, images(8)).head.codes, expected.codes)


def test_stored_codes_are_kept() -> None:
    from holdfast.quantization import codes, quantize

    small = quantize(digits_net(), "int8")
    model = int8_model(small, images(8))
    assert torch.equal(model.head.codes, codes(small, "head.weight"))
    assert "head.weight" not in card(model).lenses
    assert "head.weight" in card(small).lenses


@pytest.mark.parametrize("masked", [False, True])
def test_layers_of_torchs_transformer_are_called_and_not_fused(masked: bool) -> None:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
            self.encoder, self.fc = nn.TransformerEncoder(layer, 2), nn.Linear(8, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            padding = torch.zeros(len(x), 8, dtype=torch.bool) if masked else None
            out: torch.Tensor = self.fc(
                self.encoder(x.flatten(1).unflatten(1, (8, 8)), src_key_padding_mask=padding).mean(1)
            )
            return out

    torch.manual_seed(0)
    model, inputs = Encoder().eval(), dataset("digits").take(64).all()[0]
    integer = int8_model(model, inputs)
    assert len(integer_layers(integer)) == 5
    with torch.no_grad():
        assert (integer(inputs) - model(inputs)).abs().max() < 0.1
        with shield(integer) as session:
            assert session(inputs[:4]).equal(integer(inputs[:4]))


def test_another_precision_is_refused() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).bfloat16()
    with pytest.raises(InvalidConfig, match=r"1\.weight is bfloat16"):
        int8_model(model, torch.rand(4, 1, 8, 8))
