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
def test_heads_of_a_real_model_are_named_from_any_single_answer(shared_data: Path):
    folder = shared_data / "tiny-llama-260k"
    if not folder.is_dir():
        pytest.skip("no tiny-llama-260k")
    for name in DTYPES:
        assert said(folder, name, None, 10) == {name: 10}
        assert said(folder, name, 5, 5) == {"cannot tell": 5}
