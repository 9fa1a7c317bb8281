"""Budgets, waiting and prompts: the small rules that a collection keeps."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from holdfast.errors import InvalidConfig, UnreadableArtifact
from holdfast.identification.collectors import Budget, Patience, ServerRequest, read_prompts, word_prompts
from holdfast.identification.collectors.budget import Spending
from holdfast.identification.collectors.retry import retry_after
from holdfast.identification.model_names import is_same_model


def test_requests_under_way_count_at_their_worst():
    spending = Spending(Budget(tokens=300))
    assert spending.hold("a", "x" * 10, 16) is None  # 10 + 64 + 16 = 90
    assert spending.hold("b", "x" * 10, 16) is None
    assert spending.hold("c", "x" * 10, 16) is None
    assert spending.hold("d", "x" * 10, 16) == "300 tokens"
    assert spending.sent("a", (3, 16)) == (3, 16)
    assert spending.hold("d", "x" * 10, 16) is None
    assert spending.sent("b", None) == (74, 16)
    assert (spending.requests, spending.prompt, spending.generated) == (2, 77, 32)


def test_letters_of_several_bytes_may_be_as_many_tokens():
    assert Spending(Budget(tokens=80)).hold("a", "é" * 8, 1) == "80 tokens"
    assert Spending(Budget(tokens=81)).hold("a", "é" * 8, 1) is None


def test_a_cost_without_prices_is_no_limit_and_is_refused():
    with pytest.raises(InvalidConfig, match="needs the prices"):
        Budget(cost=1.0)
    with pytest.raises(InvalidConfig, match="positive"):
        Budget(requests=0)
    with pytest.raises(InvalidConfig, match="prices"):
        Budget(prices=(-1.0, 0.0))


def test_the_server_says_how_long_to_wait_in_seconds_or_with_a_date():
    now = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
    assert retry_after({"retry-after": "2.5"}) == 2.5
    assert retry_after({"retry-after": "-1"}) == 0
    assert retry_after({"retry-after": "Fri, 01 May 2026 12:00:30 GMT"}, now) == 30
    assert retry_after({"retry-after": "Fri, 01 May 2026 11:00:00 GMT"}, now) == 0
    assert retry_after({"retry-after": "soon"}, now) is None
    assert retry_after({"retry-after": "nan"}, now) is None
    assert retry_after({}) is None


def test_waits_double_are_drawn_apart_and_obey_the_server():
    patience = Patience(first=1.0, longest=8.0)
    for attempt, full in ((1, 1.0), (2, 2.0), (4, 8.0), (9, 8.0)):
        waits = {patience.wait(f"{k}", attempt, {}) for k in range(20)}
        assert all(full / 2 <= wait <= full for wait in waits)
        assert len(waits) == 20
    assert patience.wait("a", 1, {}) == patience.wait("a", 1, {})
    assert patience.wait("a", 1, {"retry-after": "5"}) == 5


def test_a_request_is_named_by_everything_it_asks():
    one = ServerRequest(url="http://h/v1", model="m")
    names = {one.digest(0, "p", 0), one.digest(1, "p", 0), one.digest(0, "q", 0), one.digest(0, "p", 1)}
    for change in (
        {"model": "n"},
        {"tokens": 2},
        {"top": 2},
        {"temperature": 1.0},
        {"seed": 1},
        {"url": "http://i/v1"},
    ):
        names.add(ServerRequest(**{"url": "http://h/v1", "model": "m", **change}).digest(0, "p", 0))
    assert len(names) == 10
    assert ServerRequest.from_json(one.to_json()) == one
    assert ServerRequest(url="http://h/v1/").root == ServerRequest(url="http://h").root == "http://h"


@pytest.mark.parametrize("change", [{"tokens": 0}, {"top": 0}, {"repeat": 0}, {"temperature": -1.0}, {"seed": -1}])
def test_requests_that_make_no_sense_are_refused(change: dict):
    with pytest.raises(InvalidConfig):
        ServerRequest(**{"url": "http://h/v1", **change})


def test_names_of_models_may_carry_a_date_or_a_path():
    assert is_same_model("gpt-4o", "gpt-4o-2024-08-06")
    assert is_same_model("/models/tiny.gguf", "tiny.gguf")
    assert is_same_model("Qwen/Qwen2.5-7B", "qwen2.5-7b")
    assert is_same_model("mistral-large-latest", "mistral-large-2411")
    assert is_same_model("gemini-1.5-pro", "gemini-1.5-pro-002")
    assert is_same_model("llama3", "llama3:latest")
    assert is_same_model("tiny@3f23c94", "tiny")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("llama-3-70b", "llama-3-8b"),
        ("gpt-4", "gpt-4o"),
        ("gpt-4o", "gpt-4o-mini"),
        ("gpt-4o", "gpt-4o-mini-2024-07-18"),
        ("gpt-4", "gpt-4-1106-preview"),
        ("llama-3", "llama-3.1-405b"),
        ("llama-3", "llama-3-70b"),
        ("gpt-4o-2024-05-13", "gpt-4o-2024-08-06"),
        ("llama3:8b", "llama3:70b"),
        ("tiny", ""),
        ("tiny", "models/"),
    ],
)
def test_a_name_that_only_begins_alike_is_another_model(asked: str, said: str):
    assert not is_same_model(asked, said)
    assert not is_same_model(said, asked)


def test_prompts_of_words_are_known_and_a_prefix_of_more():
    assert word_prompts(3) == word_prompts(9)[:3]
    assert len(set(word_prompts(200))) == 200
    assert word_prompts(1, seed=1) != word_prompts(1)
    with pytest.raises(InvalidConfig):
        word_prompts(0)


def test_prompts_from_files(tmp_path: Path):
    (tmp_path / "p.txt").write_bytes("\ufeffone\r\n\n  two é\n".encode())
    assert read_prompts(tmp_path / "p.txt") == ("one", "  two é")
    (tmp_path / "p.jsonl").write_text('"one\\nline"\n{"prompt": "two", "more": 1}\n')
    assert read_prompts(tmp_path / "p.jsonl") == ("one\nline", "two")
    for name, data, match in (
        ("e.txt", b"\n", "no prompt"),
        ("b.txt", b"\xff", "UTF-8"),
        ("c.jsonl", b'"a"\n7\n', "line 2"),
        ("d.jsonl", b'"\\ud800"\n', "line 1"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UnreadableArtifact, match=match):
            read_prompts(tmp_path / name)
