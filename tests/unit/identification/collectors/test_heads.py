"""One answer of a server tells the format of its head, or that it cannot be told."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.served_heads import DTYPES, said

pytest.importorskip("httpx2", reason="the extra servers is not installed")


@pytest.mark.parametrize("name", list(DTYPES))
def test_a_head_that_does_not_round_is_named_from_any_single_answer(name: str):
    assert said(None, name, None, 2) == {name: 2}


@pytest.mark.parametrize("places", [2, 4, 6])
def test_a_head_that_rounds_is_never_guessed(places: int):
    for name in DTYPES:
        assert said(None, name, places, 2) == {"cannot tell": 2}


@pytest.mark.slow
@pytest.mark.parametrize("asked", ["temperature 2", "with the prompt"])
def test_heads_of_a_real_model_are_named_from_any_single_answer(shared_data: Path, asked: str):
    for name in DTYPES:
        assert said(_llama(shared_data), name, None, 10, asked) == {name: 10}
        assert said(_llama(shared_data), name, 5, 3, asked) == {"cannot tell": 3}


@pytest.mark.slow
def test_greedy_answers_of_a_small_model_leave_bf16_open_but_are_never_wrong(shared_data: Path):
    """Its likeliest tokens have logits of 6 to 12: their gaps in bf16 are those of fp16 logits eight times as large."""
    found = said(_llama(shared_data), "bf16", None, 10)
    assert set(found) <= {"bf16", "one of {bf16, fp16}"}
    assert found["bf16"] < 10  # or the page on collecting says too little


def _llama(shared_data: Path) -> Path:
    folder = shared_data / "tiny-llama-260k"
    if not folder.is_dir():
        pytest.skip("no tiny-llama-260k")
    return folder
