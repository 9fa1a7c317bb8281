"""Formats are told from words alone, with a confidence that is right as often as it says."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from holdfast.errors import InvalidConfig
from holdfast.execution import Proportion
from holdfast.identification.grid import dtype_from_outputs
from holdfast.identification.grid_evidence import grid_evidence
from holdfast.identification.grid_formats import FLOAT_GRIDS, lattice_step
from holdfast.seeds import derive


def sample(name: str, shape: tuple[int, ...], seed: int, scale: float | None = None) -> torch.Tensor:
    """Gaussian values of a random scale in a format, by torch's casts or by the definition of the quantiser."""
    generator = derive(seed, "sample", name).torch()
    scale = 2.0 ** float(torch.rand((), generator=generator) * 8 - 3) if scale is None else scale
    values = torch.randn(shape, generator=generator) * scale
    casts = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp8-e4m3": torch.float8_e4m3fn}
    casts["fp8-e5m2"] = torch.float8_e5m2
    if name in casts:
        return values.to(casts[name]).float()
    if name == "tf32":
        return ((values.view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)
    if name == "mxint8":
        blocks = values.view(*shape[:-1], -1, 32)
        step = 2.0 ** (blocks.abs().amax(-1, keepdim=True).log2().floor() - 6)
        return ((blocks / step).round().clamp(-127, 127) * step).view(shape)
    if name == "int8-dynamic":
        step = (values.max() - values.min()) / 255
        zero = torch.round(-values.min() / step)
        return step * ((values / step + zero).round().clamp(0, 255) - zero)
    return values


FORMATS = ("fp32", "bf16", "fp16", "fp8-e4m3", "fp8-e5m2", "mxint8", "int8-dynamic")


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_named_on_held_out_values(name: str) -> None:
    right = 0
    for seed in range(30):
        found = grid_evidence(sample(name, (4, 64), seed), prior={"tf32": 1e-3})
        right += found.formats == (name,)
    low = Proportion.clopper_pearson(right, 30).low
    assert low > 0.8, (right, "chance is 1/8")


def test_formats_with_the_same_points_are_reported_together() -> None:
    found = grid_evidence(sample("fp16", (64,), 0, scale=4.0))
    assert found.dtype == "one of {fp16, tf32}"
    assert found.confidence > 0.99
    small = grid_evidence(sample("tf32", (64,), 0, scale=1e-6))  # below the exponents of fp16
    assert small.formats == ("tf32",)
    large = grid_evidence(sample("tf32", (64,), 0, scale=1e6))
    assert large.formats == ("tf32",)


@pytest.mark.parametrize("places", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("name", ["fp32", "bf16", "fp16"])
def test_rounded_outputs_are_no_format(name: str, places: int) -> None:
    values = sample(name, (8, 32), places, scale=0.9)
    rounded = ((values.double() * 10**places).round() / 10**places).float()
    found = grid_evidence(rounded)
    assert found.dtype == "cannot tell" or torch.equal(rounded, values)
    if name == "fp32":
        assert found.formats == (f"{places} decimals",)


def test_large_bf16_logits_are_not_taken_for_rounded_ones() -> None:
    logits = sample("bf16", (256,), 0, scale=1.0).abs() + 9  # multiples of 1/16: four decimals, all of them
    logits = logits.bfloat16().float()
    assert grid_evidence(logits, prior={"tf32": 1e-3}).dtype == "bf16"
    assert dtype_from_outputs(logits).dtype == "bf16"


@pytest.mark.parametrize("bits", [5, 6, 7, 9, 10, 13, 16])
def test_a_grid_that_is_no_candidate_is_unknown(bits: int) -> None:
    values = sample("fp32", (4, 128), bits)
    mantissa, exponent = torch.frexp(values)
    coarse = torch.ldexp((mantissa * 2**bits).round() / 2**bits, exponent)
    found = grid_evidence(coarse)
    assert found.formats[0] == "unknown"
    assert found.dtype == "cannot tell"


def test_confidence_is_right_as_often_as_it_says() -> None:
    said, right, n = 0.0, 0, 0
    for name in ("fp32", "bf16", "fp16", "tf32", "fp8-e4m3"):
        for seed in range(60):
            found = grid_evidence(sample(name, (3,), 1000 + seed))
            best = found.formats[0]
            said, right, n = said + found.posterior[best], right + (best == name), n + 1
    interval = Proportion.clopper_pearson(right, n)
    assert interval.low - 0.05 <= said / n <= interval.high + 0.05
    assert said / n < 0.97  # three words cannot be sure of everything


def test_too_little_to_tell_and_bad_input() -> None:
    assert grid_evidence(torch.zeros(9)).dtype == "cannot tell"
    assert grid_evidence(torch.tensor([torch.nan, torch.inf])).words == 0
    assert grid_evidence(torch.tensor([0.5])).dtype == "cannot tell"
    with pytest.raises(InvalidConfig):
        grid_evidence(torch.zeros(3, dtype=torch.float16))
    with pytest.raises(InvalidConfig):
        grid_evidence(torch.zeros(3), level=1.0)


def test_one_stray_word_does_not_decide() -> None:
    values = sample("bf16", (128,), 3)
    values[17] = 0.1
    assert grid_evidence(values).formats == ("bf16",)


@pytest.mark.parametrize("name", ["fp16", "bf16"])
def test_grids_hold_what_torch_casts_and_nothing_between(name: str) -> None:
    values = sample(name, (4096,), 5, scale=1e-5 if name == "fp16" else 1.0)
    grid = FLOAT_GRIDS[name]
    wide = values.double().numpy()
    assert grid.holds(wide).all()
    assert not grid.holds(wide + np.sign(wide) * grid.spacing(wide) / 2)[np.abs(wide) > 0].any()


def test_a_lattice_is_found_and_noise_has_none() -> None:
    generator = derive(0, "lattice").numpy()
    multiples = generator.integers(-100, 100, 40)
    tolerance = np.full(40, 1e-7)
    step = lattice_step(multiples * 0.0371, tolerance)
    assert step == pytest.approx(0.0371, rel=1e-6)
    assert lattice_step(generator.standard_normal(40), tolerance) is None
