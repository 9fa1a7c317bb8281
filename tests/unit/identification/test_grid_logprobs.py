"""The head's format from one response, and no guess where the numbers cannot tell."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from holdfast.errors import InvalidConfig
from holdfast.execution import Proportion
from holdfast.identification.grid_logprobs import dtype_from_logprobs
from holdfast.identification.grid_text import Rounding, rounding_of
from holdfast.seeds import derive

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def response(
    name: str,
    seed: int,
    *,
    positions: int = 8,
    top: int = 20,
    temperature: float = 1.0,
    places: int | None = None,
    bias: dict[int, float] | None = None,
) -> list[list[str]]:
    """The raw numbers of a server: logits of a head in a format, fp32 log-softmax, top tokens, JSON."""
    generator = derive(seed, "response", name).torch()
    logits = torch.randn(positions, 512, generator=generator) * 4 + 6  # tops near 19
    logits = logits.to(DTYPES[name]).float()
    for rank, amount in (bias or {}).items():
        chosen = logits.argsort(descending=True)[:, rank]
        logits[torch.arange(positions), chosen] += amount
    found = torch.log_softmax(logits / temperature, -1).sort(descending=True).values[:, :top]
    rows = found.double().tolist()
    return [[json.dumps(value if places is None else round(value, places)) for value in row] for row in rows]


@pytest.mark.parametrize("name", DTYPES)
def test_one_response_tells_the_format(name: str) -> None:
    right = sum(dtype_from_logprobs(response(name, seed)).dtype == name for seed in range(4))
    assert right == 4
    assert Proportion.clopper_pearson(right, 4).low > 1 / 3  # chance


@pytest.mark.parametrize("name", DTYPES)
def test_one_position_is_right_or_says_that_it_cannot_tell(name: str) -> None:
    for seed in range(3):
        found = dtype_from_logprobs(response(name, 100 + seed, positions=1)).dtype
        assert found in (name, "cannot tell") or name in found


@pytest.mark.parametrize("places", [1, 2, 4, 6])
@pytest.mark.parametrize("name", DTYPES)
def test_rounded_numbers_are_cannot_tell(name: str, places: int) -> None:
    found = dtype_from_logprobs(response(name, places, places=places))
    assert found.dtype == "cannot tell"
    assert found.rounding == Rounding("decimals", places)


def test_a_coarse_grid_shows_through_fine_rounding_when_asked() -> None:
    for name in ("bf16", "fp16"):
        assert dtype_from_logprobs(response(name, 1, places=4), through_rounding=True).dtype == name
    for places in (1, 2, 3, 4):
        assert dtype_from_logprobs(response("fp32", 1, places=places), through_rounding=True).dtype == "cannot tell"
    assert dtype_from_logprobs(response("bf16", 1, places=1), through_rounding=True).dtype == "cannot tell"


@pytest.mark.parametrize(("temperature", "octave"), [(0.7, 0.7), (0.35, 0.7), (1.3, 0.65), (0.8137, 0.8137)])
def test_temperature_is_found_and_undone(temperature: float, octave: float) -> None:
    for name in ("bf16", "fp16"):
        found = dtype_from_logprobs(response(name, 2, temperature=temperature))
        assert found.dtype == name
        assert found.temperature == pytest.approx(octave, rel=1e-4)
    assert dtype_from_logprobs(response("fp32", 2, temperature=temperature)).dtype == "fp32"


@pytest.mark.parametrize("biased", [0, 3])
def test_biased_tokens_are_set_aside_and_named(biased: int) -> None:
    rows = response("bf16", 4, bias={biased: 0.3})
    found = dtype_from_logprobs(rows)
    assert found.dtype == "bf16"
    assert {position for position, _ in found.moved} == set(range(8))


def test_nothing_is_moved_where_nothing_was() -> None:
    assert dtype_from_logprobs(response("fp16", 5)).moved == ()


def test_digits_show_how_numbers_were_written() -> None:
    generator = derive(0, "digits").numpy()
    values = -generator.exponential(3.0, 40)
    narrow = values.astype(np.float32)
    assert rounding_of([repr(float(value)) for value in values]).kind == "fp64"
    assert rounding_of([str(value) for value in narrow]).kind == "fp32"
    assert rounding_of([repr(float(value)) for value in narrow]).kind == "fp32"
    assert rounding_of([f"{value:.5f}" for value in values]) == Rounding("decimals", 5)
    assert rounding_of([f"{value:.4g}" for value in values * 10.0 ** generator.integers(-3, 1, 40)]).kind == "digits"
    assert rounding_of([repr(float(round(value * 16)) / 16) for value in values]).kind == "fp32"  # multiples of 1/16
    assert rounding_of(["-0.0", "-1.5"]).kind == "cannot tell"


def test_bad_input_is_one_clear_error() -> None:
    with pytest.raises(InvalidConfig, match="no number"):
        rounding_of(["-1.0", "none"])
    with pytest.raises(InvalidConfig, match="no position"):
        dtype_from_logprobs([["-0.1"]])
    with pytest.raises(InvalidConfig, match="positive"):
        dtype_from_logprobs([["3.2", "-1.5"]])


def test_positions_that_share_a_scale_do_not_add_up_to_a_certainty_they_lack() -> None:
    # fp16 logits of 14 to 22 and bf16 logits of 4 to 6 leave nearly the same gaps: taken as independent, the eight
    # positions of this response said bf16 with more than 0.99
    from benchmarks.grid_and_order import response as served

    found = dtype_from_logprobs(served("fp16", 14, 8))
    assert found.dtype in ("fp16", "one of {bf16, fp16}")
    assert found.formats.posterior["fp16"] > 0.01


def test_the_size_of_logits_is_a_prior_that_a_caller_may_widen() -> None:
    generator = torch.Generator().manual_seed(3)
    large = (torch.randn(8, 512, generator=generator) * 3 + 150).half().float()
    rows = [[json.dumps(x) for x in row] for row in served_rows(large)]
    usual, any_size = (dtype_from_logprobs(rows, unusual=share) for share in (0.002, 0.5))
    assert usual.formats.posterior["fp16"] < any_size.formats.posterior["fp16"]
    assert "fp16" in any_size.dtype
    with pytest.raises(InvalidConfig, match="share"):
        dtype_from_logprobs(rows, unusual=0.0)


def served_rows(logits: torch.Tensor) -> list[list[float]]:
    return torch.log_softmax(logits, -1).sort(descending=True).values[:, :20].double().tolist()


@pytest.mark.parametrize("name", DTYPES)
def test_a_known_temperature_is_believed_and_a_false_one_forgiven(name: str) -> None:
    """Half of the prior speaks for other divisors as long as nobody says which it was."""
    for seed in range(2):
        plain, warm = response(name, seed), response(name, seed, temperature=0.7)
        free = dtype_from_logprobs(plain).formats.posterior[name]
        assert dtype_from_logprobs(plain, temperature=1.0).formats.posterior[name] >= free - 1e-9
        assert dtype_from_logprobs(warm, temperature=(1.0, 0.7)).dtype == name
        lied_to = dtype_from_logprobs(warm, temperature=1.0)
        assert lied_to.dtype == name
        assert name == "fp32" or abs((lied_to.temperature or 0) - 0.7) < 1e-4


def test_a_temperature_that_divides_nothing_is_refused() -> None:
    for wrong in (0.0, -1.0, float("nan"), ()):
        with pytest.raises(InvalidConfig, match="above 0"):
            dtype_from_logprobs(response("bf16", 0), temperature=wrong)


@pytest.mark.parametrize("sentinel", ["-9999.0", "-9999", "NaN", "-Infinity", "Infinity", "nan", "-inf"])
def test_what_stands_for_no_number_is_left_out(sentinel: str) -> None:
    """vLLM writes -9999 for tokens that were masked, and Python's json writes what JSON has no word for."""
    plain = response("bf16", 3)
    marked = [[*row[:5], sentinel, *row[5:]] for row in plain]
    assert dtype_from_logprobs(marked) == dtype_from_logprobs(plain)
    assert rounding_of([*plain[0], sentinel]) == rounding_of(plain[0])
    assert rounding_of([sentinel] * 5) == Rounding("cannot tell")
    with pytest.raises(InvalidConfig, match="no position"):
        dtype_from_logprobs([[sentinel] * 4])
