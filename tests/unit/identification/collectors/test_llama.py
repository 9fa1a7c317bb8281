"""Collecting from a real server: llama.cpp's, over a real model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from benchmarks._llama_server import WHERE, interpreter, llama_server, write_gguf

from holdfast.data.tokenizer import read_tokenizer
from holdfast.errors import Unavailable
from holdfast.identification import dtype_from_logprobs
from holdfast.identification.collectors import ServerRequest, collect_answers, word_prompts
from holdfast.models import load

pytestmark = pytest.mark.slow
PROMPTS = ("I sense the nodes", "A gentle hum of precision", *word_prompts(6, words=4))


@pytest.fixture(scope="module")
def gguf(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("httpx2", reason="the extra servers is not installed")
    pytest.importorskip("gguf", reason="the extra peers is not installed")
    if interpreter() is None:
        pytest.skip(WHERE)
    folder = shared_data / "tiny-llama-260k"
    if not folder.is_dir():
        pytest.skip("no tiny-llama-260k")
    return write_gguf(folder, tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture(scope="module")
def url(gguf: Path) -> Iterator[str]:
    with llama_server(gguf) as address:
        yield address


def test_what_llama_cpp_says_is_what_the_model_computes(url: str, shared_data: Path, tmp_path: Path):
    got = collect_answers(ServerRequest(url=url, tokens=4, top=20), PROMPTS, tmp_path / "c")
    assert got.complete
    assert got.notes == ()
    model = load(shared_data / "tiny-llama-260k")
    words = read_tokenizer(shared_data / "tiny-llama-260k" / "tok512.bin")
    for answer in got.collection.answers():
        with torch.no_grad():
            tokens = torch.tensor([[1, *words.encode(PROMPTS[answer.prompt])]])
            expected = torch.log_softmax(model(tokens)[0, -1], -1).topk(20).values.tolist()
        assert [float(number) for number in answer.tokens[0].numbers] == pytest.approx(expected, abs=2e-4)


def test_its_head_is_fp32_and_its_digits_are_all_there(url: str, tmp_path: Path):
    got = collect_answers(ServerRequest(url=url, tokens=8, top=20), PROMPTS, tmp_path / "c")
    found = [dtype_from_logprobs(positions) for _, positions in got.collection.logprobs()]
    assert {evidence.dtype for evidence in found} == {"fp32"}
    assert {evidence.rounding.kind for evidence in found} == {"fp32"}


def test_its_hidden_repetition_penalty_is_turned_off_and_noticed_where_it_is_not(url: str, tmp_path: Path):
    prompts = word_prompts(16)
    quiet = collect_answers(ServerRequest(url=url, tokens=16, top=20), prompts, tmp_path / "quiet")
    assert quiet.collection.request["dialect"] == "llama-cpp-python"
    assert quiet.notes == ()
    plain = collect_answers(ServerRequest(url=url, tokens=16, top=20, dialect="completions"), prompts, tmp_path / "c")
    assert "greedy answers chose a token that their own log-probabilities call less likely" in plain.notes[0]


def test_chat_and_sampling(url: str, tmp_path: Path):
    request = ServerRequest(url=url, tokens=4, top=5, dialect="chat", temperature=1.0, repeat=2, seed=3)
    got = collect_answers(request, PROMPTS[:2], tmp_path / "c")
    assert got.complete
    assert all(len(token.top) >= 5 for answer in got.collection.answers() for token in answer.tokens)


def test_a_server_started_without_logits_has_no_log_probabilities(gguf: Path, tmp_path: Path):
    with llama_server(gguf, logits_all=False) as address, pytest.raises(Unavailable) as caught:
        collect_answers(ServerRequest(url=address, tokens=4, top=5), PROMPTS, tmp_path / "c")
    assert "logits_all" in str(caught.value) + caught.value.hint
