"""``holdfast compare`` tells one service from two, keeps its error, and refuses what cannot be compared."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

import holdfast
from holdfast.cli import main
from holdfast.data.tokenizer import read_tokenizer
from holdfast.identification.answers import TokenAnswer
from holdfast.identification.comparison import Comparison, compare_answers
from holdfast.identification.token_difr import SharedSampling
from holdfast.models import load
from tests.answered import answer_of, collect, stack, write


def said(capsys, *arguments: object) -> tuple[int, dict, str]:
    code = main(["compare", *map(str, arguments), "--json"])
    captured = capsys.readouterr()
    return code, json.loads(captured.out), captured.err


def hotter(logits: torch.Tensor) -> torch.Tensor:
    return logits / 1.6


def test_one_service_twice_is_one_and_another_is_not(tmp_path: Path, capsys) -> None:
    collect(tmp_path / "one", repeat=8, temperature=2.0, seed=10)
    collect(tmp_path / "again", repeat=8, temperature=2.0, seed=20)
    collect(tmp_path / "other", hotter, repeat=8, temperature=2.0, seed=30)
    code, found, text = said(capsys, tmp_path / "one", tmp_path / "again")
    assert (code, found["differ"]) == (0, False)
    assert "no difference found at error 0.05 over 2 test(s)" in text
    assert "warning" not in text
    collect(tmp_path / "copies", repeat=8, temperature=2.0, seed=13)
    assert "5 seeds of sampling are the same" in said(capsys, tmp_path / "one", tmp_path / "copies")[2]
    code, found, text = said(capsys, tmp_path / "one", tmp_path / "other")
    assert (code, found["differ"]) == (1, True)
    assert found["tests"]["texts"]["p_value"] < 0.025
    assert "48 and 48 answers to 6 prompts" in text


def test_log_probabilities_see_what_texts_do_not(tmp_path: Path, capsys) -> None:
    collect(tmp_path / "one", repeat=6)
    collect(tmp_path / "stack", stack(3), repeat=6)
    code, found, _ = said(capsys, tmp_path / "one", tmp_path / "stack")
    assert code == 1
    assert found["tests"]["texts"]["p_value"] == 1.0
    assert found["tests"]["logprobs"]["p_value"] < 0.01
    assert found["tests"]["logprobs"]["statistic"] < 1e-5


@pytest.mark.parametrize(
    ("changes", "more", "why"),
    [
        ({"prompts": 3}, (), "asked different prompts"),
        ({"temperature": 1.0}, (), "temperature"),
        ({"repeat": 1}, (), "twice or more"),
        ({}, ("--error", "1.5"), "between 0 and 1"),
        ({}, ("--error", "0.001", "--permutations", "99"), "99 permutations cannot show"),
    ],
)
def test_what_cannot_be_compared_exits_2(
    tmp_path: Path, capsys, changes: dict, more: tuple[str, ...], why: str
) -> None:
    collect(tmp_path / "one", repeat=4)
    collect(tmp_path / "two", **({"repeat": 4} | changes))
    assert main(["compare", str(tmp_path / "one"), str(tmp_path / "two"), *more]) == 2
    assert why in capsys.readouterr().err


def test_too_few_permutations_are_refused_before_any_test_is_made(
    tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With two tests each has half of the error, and 99 permutations show no more than 0.01."""
    collect(tmp_path / "one", repeat=4)

    def tested(*sides: object, **options: object) -> None:
        raise AssertionError("a test was made")

    for module in ("equality", "drift", "comparison"):
        for test in ("model_equality", "logprob_drift"):
            monkeypatch.setattr(f"holdfast.identification.{module}.{test}", tested, raising=False)
    call = ["compare", str(tmp_path / "one"), str(tmp_path / "one"), "--permutations", "99", "--error", "0.0199"]
    assert main(call) == 2
    assert "99 permutations cannot show an error of 0.00995" in capsys.readouterr().err


def test_one_error_is_kept_over_all_tests(tmp_path: Path) -> None:
    sides = [collect(tmp_path / name, repeat=4) for name in ("one", "two")]
    found = compare_answers(*sides, error=0.04)
    assert (set(found.tests), found.share, found.differ) == ({"texts", "logprobs"}, 0.02, False)
    close = dataclasses.replace(found.tests["texts"], p_value=0.03)
    assert not Comparison({"texts": close, "logprobs": found.tests["logprobs"]}, 0.04).differ
    assert Comparison({"texts": close}, 0.04).differ


def greedy_answers(folder: Path, model: torch.nn.Module, tokenizer: Path, *, ids: bool = True) -> Path:
    """What a server of a language model says at temperature 0, with the numbers of its tokens."""
    tokens = read_tokenizer(tokenizer)
    asked = ["Once upon a time", "The sky is", "She said that", "A small dog", "In the garden", "They went to"]
    answers = []
    for number, prompt in enumerate(asked):
        given = torch.tensor([[1, *tokens.encode(prompt)]])
        drawn = SharedSampling(temperature=0.0).generate(lambda t: model(t).float(), given, 24)[0].tolist()
        said = [
            TokenAnswer(token=str(k), token_id=k if ids else None, bytes_=None, logprob=None, top=()) for k in drawn
        ]
        answers.append(answer_of(number, said))
    return write(folder, asked, answers)


def test_greedy_answers_are_held_against_the_model(shared_data: Path, tmp_path: Path, capsys) -> None:
    place = shared_data / "tiny-llama-260k"
    model, tokenizer = load(place).eval(), place / "tok512.bin"
    honest = greedy_answers(tmp_path / "honest", model, tokenizer)
    code, found, text = said(capsys, honest, place, "--tokenizer", tokenizer)
    assert (code, found["differ"]) == (0, False)
    assert found["token_difr"]["agreement"]["value"] == 1.0
    small = greedy_answers(tmp_path / "small", holdfast.quantize(model, "int4"), tokenizer)
    code, found, text = said(capsys, small, place, "--tokenizer", tokenizer)
    assert (code, found["differ"]) == (1, True)
    assert "not this model at error 0.05" in text
    assert main(["compare", str(honest), str(place)]) == 2
    assert "do not hold the prompts' own tokens" in capsys.readouterr().err
    nameless = greedy_answers(tmp_path / "nameless", model, tokenizer, ids=False)
    assert main(["compare", str(nameless), str(place), "--tokenizer", str(tokenizer)]) == 2
    assert "no token numbers" in capsys.readouterr().err
