"""What public weights say about codes."""

from __future__ import annotations

import math

import pytest
import torch

from holdfast.errors import InvalidConfig
from holdfast.numerics.formats.fixed_point import FixedPoint
from holdfast.shielding.theft import fitted_scale, overall, similarity, zero_data_scale


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_codes_of_the_public_weights_give_their_scales_away() -> None:
    weight = drawn(8, 16, 3, 3)
    encoded = FixedPoint(bits=8).encode(weight)
    scale = encoded.qparams["scale"].reshape(-1).expand(8)
    assert torch.allclose(fitted_scale(encoded.codes, weight), scale, rtol=0.01)
    found = similarity(encoded.codes, 5.0 * weight)  # a scale per channel changes nothing
    assert found.cosine > 0.9999
    assert found.rank > 0.999
    assert found.information > 4


def test_independent_weights_say_nothing() -> None:
    found = similarity(drawn(8, 2000), drawn(8, 2000, seed=1))
    assert abs(found.cosine) < 0.03
    assert abs(found.rank) < 0.03
    assert found.information < 0.002


def test_information_is_that_of_the_normal_law() -> None:
    rho, noise = 0.8, drawn(4, 50_000, seed=1)
    public = drawn(4, 50_000)
    found = similarity(rho * public + math.sqrt(1 - rho**2) * noise, public)
    assert found.cosine == pytest.approx(rho, abs=0.01)
    assert found.residual == pytest.approx(1 - rho**2, abs=0.02)
    assert found.information == pytest.approx(-0.5 * math.log(1 - rho**2), rel=0.03)


def test_hes_guess_needs_no_data() -> None:
    weight = drawn(32, 64, 3, 3) * math.sqrt(2 / 576)
    encoded = FixedPoint(bits=8).encode(weight)
    scale = encoded.qparams["scale"].reshape(-1).expand(32)
    assert torch.allclose(zero_data_scale(encoded.codes), scale, rtol=0.15)


def test_layers_of_other_shapes_are_left_out() -> None:
    codes = {"a": drawn(4, 8), "b": drawn(4, 9)}
    each, whole = overall(codes, {"a": drawn(4, 8), "b": drawn(4, 7)})
    assert each.keys() == {"a"}
    assert whole.weights == 32
    assert whole.cosine == pytest.approx(1.0)
    with pytest.raises(InvalidConfig, match="share no layer"):
        overall(codes, {"c": drawn(4, 8)})
    with pytest.raises(InvalidConfig, match="do not compare"):
        similarity(drawn(2, 3), drawn(2, 4))
