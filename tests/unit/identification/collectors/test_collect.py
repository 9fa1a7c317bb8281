"""Collecting from a server that misbehaves: every answer once, every digit kept, one clear error each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from holdfast.errors import InvalidConfig, StorageError, Unavailable, UnknownName, UnreadableArtifact
from holdfast.identification.answers import ANSWERS, Collection
from holdfast.identification.collectors import (
    Budget,
    CollectOptions,
    Patience,
    ServerRequest,
    collect_answers,
    word_prompts,
)
from holdfast.identification.collectors.journal import Description, Journal
from holdfast.testing.simulated_replies import Asked, MadeUp, Variant, positions
from holdfast.testing.simulated_server import Mischief, SimulatedServer

pytest.importorskip("httpx2", reason="the extra servers is not installed")
QUICK = Patience(attempts=9, first=0.01, longest=5.0, timeout=10.0)
PROMPTS = word_prompts(12)


def collect(server, out, prompts=PROMPTS, *, options=None, **request):
    given = {"url": server.url, "tokens": 3, "top": 5} | request
    return collect_answers(ServerRequest(**given), prompts, out, options=options or CollectOptions(patience=QUICK))


def by_place(collection):
    return {(answer.prompt, answer.repeat): answer for answer in collection.answers()}


@pytest.mark.parametrize("kind", ["openai", "vllm", "sglang", "llama.cpp", "tgi"])
def test_numbers_of_every_kind_of_server_are_those_it_computed(tmp_path: Path, kind: str):
    variant = Variant(dtype="bf16")
    with SimulatedServer([variant], kind=kind) as server:
        got = collect(server, tmp_path / "c", PROMPTS[:3], prompt_logprobs=kind != "llama.cpp")
    assert got.complete
    assert got.collection.request["dialect"] == ("completions" if kind == "openai" else kind)
    for place, answer in by_place(got.collection).items():
        asked = Asked(prompt=PROMPTS[place[0]], tokens=3, top=5, temperature=0, seed=0, of_prompt=True, model="")
        before, after = positions(variant, asked)
        assert [item.logprob for item in answer.tokens] == [json.dumps(item.logprob) for item in after]
        assert [[number for _, number in item.top] for item in answer.tokens] == [
            [json.dumps(value) for _, value in item.top] for item in after
        ]
        if kind != "openai":
            assert [item.token_id for item in answer.tokens] == [item.token for item in after]
        expected = [] if kind == "llama.cpp" else [None if p.logprob is None else json.dumps(p.logprob) for p in before]
        assert [item.logprob for item in answer.prompt_tokens] == expected
        assert answer.text == "".join(f" w{item.token}" for item in after)


def test_chat_is_asked_as_chat_and_gives_bytes(tmp_path: Path):
    with SimulatedServer() as server:
        got = collect(server, tmp_path / "c", PROMPTS[:2], dialect="chat")
        assert {seen.path for seen in server.asked} == {"/v1/chat/completions"}
        assert server.asked[0].body["messages"] == [{"role": "user", "content": PROMPTS[0]}]
        collect(server, tmp_path / "openai", PROMPTS[:1], dialect="openai")
        assert server.asked[-1].body["max_completion_tokens"] == 3
        assert "max_tokens" not in server.asked[-1].body
    assert all(token.bytes_ is not None for answer in got.collection.answers() for token in answer.tokens)


def test_a_server_without_completions_is_asked_as_chat(tmp_path: Path):
    with SimulatedServer(mischief=Mischief(closed=frozenset({"/v1/completions"}))) as server:
        got = collect(server, tmp_path / "c", PROMPTS[:2])
        assert len(server.asked) == 2
    assert (got.complete, got.collection.request["dialect"]) == (True, "chat")


def test_a_server_that_became_another_meanwhile_is_noted(tmp_path: Path):
    with SimulatedServer(kind="vllm", mischief=Mischief(claims={"/version": {"version": "1"}})) as server:
        port = int(server.url.rsplit(":", 1)[1].removesuffix("/v1"))
        first = collect(server, tmp_path / "c", options=CollectOptions(budget=Budget(requests=3), patience=QUICK))
        assert first.notes == ()
    with SimulatedServer(kind="vllm", port=port, mischief=Mischief(claims={"/version": {"version": "2"}})) as server:
        second = collect(server, tmp_path / "c")
    assert second.complete
    assert "the server says other things of itself" in second.notes[0]
    sessions = [line["server"]["replies"]["version"] for line in second.collection.lines() if line["kind"] == "session"]
    assert sessions == [{"version": "1"}, {"version": "2"}]


def test_tokens_that_look_alike_stay_apart_where_the_server_gives_numbers(tmp_path: Path):
    class Twins(MadeUp):
        def logits(self, tokens):
            found = super().logits(tokens).clone()
            found[500:504] = found.max() + 1 + found[500:504] / 100
            return found

    for kind, count in (("vllm", 5), ("sglang", 5), ("openai", 2)):
        with SimulatedServer([Variant(brain=Twins())], kind=kind) as server:
            got = collect(server, tmp_path / kind, PROMPTS[:1], tokens=2) if kind != "openai" else None
            if got is None:
                with pytest.raises(UnreadableArtifact, match="2 of 5 log-probabilities"):
                    collect(server, tmp_path / kind, PROMPTS[:1], tokens=2)
            else:
                assert [len(token.numbers) for token in next(got.collection.answers()).tokens] == [count, count]


def test_rate_limits_failures_and_dropped_connections_cost_retries_and_no_answer(tmp_path: Path):
    mischief = Mischief(limited=0.2, failing=0.15, dropped=0.15)
    with SimulatedServer(mischief=mischief, seed=3) as server:
        got = collect(server, tmp_path / "c", options=CollectOptions(concurrency=4, patience=QUICK))
        sent, fates = len(server.asked), {seen.fate for seen in server.asked}
    with SimulatedServer() as honest:
        calm = collect(honest, tmp_path / "calm")
    assert got.complete
    assert {"limited", "failing", "dropped"} <= fates
    assert (got.asked, got.retried) == (sent, sent - 12)
    loud, quiet = by_place(got.collection), by_place(calm.collection)
    assert {place: answer.tokens for place, answer in loud.items()} == {p: a.tokens for p, a in quiet.items()}
    assert sum(line["kind"] == "failed" for line in got.collection.lines()) == got.retried


def test_a_server_that_is_busy_is_left_alone_for_as_long_as_it_asks(tmp_path: Path):
    with SimulatedServer(mischief=Mischief(limited=1.0, wait=30.0)) as server:
        with pytest.raises(Unavailable, match="asks to wait 30 seconds"):
            collect(server, tmp_path / "c")
        assert len(server.asked) == 1


def test_an_answer_that_is_truncated_is_refused_and_the_others_are_kept(tmp_path: Path):
    with SimulatedServer(mischief=Mischief(truncated=0.2, garbled=0.1), seed=9) as server:
        got = collect(server, tmp_path / "c", options=CollectOptions(patience=QUICK, concurrency=2))
        bad = sum(seen.fate in ("truncated", "garbled") for seen in server.asked)
    assert 0 < bad < 12
    assert (got.answered, len(got.refused), got.complete) == (12 - bad, bad, False)
    with pytest.raises(UnreadableArtifact, match=rf"{bad} answers of 12 refused, first to prompt \d+: "):
        got.require_whole()


def test_truncated_answers_say_so(tmp_path: Path):
    for kind in ("vllm", "llama.cpp", "sglang"):
        with (
            SimulatedServer(kind=kind, mischief=Mischief(truncated=1.0)) as server,
            pytest.raises(UnreadableArtifact, match="truncated"),
        ):
            collect(server, tmp_path / kind)
        assert len(server.asked) == 1


@pytest.mark.parametrize("kind", ["openai", "vllm", "sglang", "llama.cpp", "tgi"])
def test_a_server_without_log_probabilities_is_one_error_after_one_request(tmp_path: Path, kind: str):
    with SimulatedServer(kind=kind, mischief=Mischief(mute=True)) as server:
        with pytest.raises(Unavailable, match="gives no log-probabilities for simulated") as caught:
            collect(server, tmp_path / "c")
        assert len(server.asked) == 1
        assert "logits_all" in caught.value.hint


def test_a_server_that_gives_fewer_log_probabilities_says_how_many(tmp_path: Path):
    with SimulatedServer(kind="vllm", mischief=Mischief(most=2)) as server:
        with pytest.raises(UnreadableArtifact, match="2 of 5 log-probabilities") as caught:
            collect(server, tmp_path / "c")
        assert caught.value.hint == "--top 2"


def test_the_wrong_model_is_refused_before_anything_is_asked(tmp_path: Path):
    with SimulatedServer() as server:
        with pytest.raises(UnknownName, match="serves no other") as caught:
            collect(server, tmp_path / "c", model="other")
        assert not server.asked
    assert "simulated" in caught.value.hint
    assert not (tmp_path / "c").exists()


def test_a_server_that_answers_with_another_model_is_refused_after_one_request(tmp_path: Path):
    with SimulatedServer([Variant(model="llama-3-8b")]) as server:
        with pytest.raises(UnknownName, match="simulated was asked for, and llama-3-8b answers"):
            collect(server, tmp_path / "c")
        assert len(server.asked) == 1
    with SimulatedServer([Variant(model="simulated-2026-05-01")]) as server:  # an alias with its date
        assert collect(server, tmp_path / "dated", PROMPTS[:2]).complete


def test_a_mixed_fleet_shows_in_every_answer(tmp_path: Path):
    fleet = [
        Variant(dtype="bf16", fingerprint="a", share=1.0),
        Variant(dtype="fp16", fingerprint="b", share=1.0),
        Variant(model="other", fingerprint="c", share=0.5),
    ]
    with SimulatedServer(fleet, seed=6) as server:
        got = collect(server, tmp_path / "c")
    found = {answer.server["system_fingerprint"] for answer in got.collection.answers()}
    assert found == {"a", "b", "c"}
    assert got.notes == (
        "some answers name another model than simulated: other",
        "several systems answered: a, b, c",
    )


def test_a_hidden_repetition_penalty_is_noticed(tmp_path: Path):
    class Same(MadeUp):
        def logits(self, tokens):
            return super().logits([])

    with SimulatedServer([Variant(brain=Same(), penalty=4.0)], kind="llama.cpp") as server:
        got = collect(server, tmp_path / "c", PROMPTS[:3])
    assert got.notes[0].startswith("3 greedy answers chose a token that their own log-probabilities call less likely")


def test_what_the_server_claims_is_kept_apart_from_what_the_client_is(tmp_path: Path):
    claims = {"/version": {"version": "9.9", "gpu": "H100"}}
    with SimulatedServer(kind="vllm", mischief=Mischief(claims=claims)) as server:
        got = collect(server, tmp_path / "c", PROMPTS[:1])
    assert got.collection.server["replies"]["version"] == {"version": "9.9", "gpu": "H100"}
    assert got.collection.server["url"] == server.url
    assert "H100" not in json.dumps(dict(got.collection.client))
    assert "cpu" in got.collection.client
    assert "cpu" not in got.collection.server


def test_repeats_and_sampling_differ_and_resume(tmp_path: Path):
    with SimulatedServer(kind="vllm") as server:
        got = collect(server, tmp_path / "c", PROMPTS[:2], repeat=3, temperature=1.0)
    found = by_place(got.collection)
    assert sorted(found) == [(p, r) for p in range(2) for r in range(3)]
    assert len({found[0, r].text for r in range(3)}) > 1
    assert len({answer.request_digest for answer in found.values()}) == 6


def test_the_same_call_again_asks_nothing(tmp_path: Path):
    with SimulatedServer() as server:
        collect(server, tmp_path / "c")
        before = len(server.seen)
        again = collect(server, tmp_path / "c")
        assert len(server.seen) == before
    assert (again.complete, again.asked) == (True, 0)


def test_another_call_into_the_same_folder_says_what_differs(tmp_path: Path):
    with SimulatedServer() as server:
        collect(server, tmp_path / "c", PROMPTS[:2])
        with pytest.raises(InvalidConfig, match="was begun with tokens 3"):
            collect(server, tmp_path / "c", PROMPTS[:2], tokens=4)
        with pytest.raises(InvalidConfig, match="other prompts"):
            collect(server, tmp_path / "c", PROMPTS[:3])
        (tmp_path / "trace").mkdir()
        (tmp_path / "trace" / "trace.json").write_text("{}")
        with pytest.raises(InvalidConfig, match="something else"):
            collect(server, tmp_path / "trace", PROMPTS[:2])


def test_two_processes_cannot_collect_into_one_folder(tmp_path: Path):
    with SimulatedServer() as server:
        folder = collect(server, tmp_path / "c", PROMPTS[:2], options=CollectOptions(budget=Budget(requests=1)))
        assert folder.stopped
        described = Description(prompts=(), request={}, client={}, server={})
        with (
            Journal(tmp_path / "c", described),
            pytest.raises(StorageError, match="another process collects"),
        ):
            collect(server, tmp_path / "c", PROMPTS[:2])


def test_a_budget_of_requests_stops_cleanly_and_a_larger_one_goes_on(tmp_path: Path):
    with SimulatedServer() as server:
        first = collect(server, tmp_path / "c", options=CollectOptions(budget=Budget(requests=5), concurrency=4))
        assert (first.answered, first.stopped, len(server.asked)) == (5, "5 requests", 5)
        second = collect(server, tmp_path / "c", options=CollectOptions(budget=Budget(requests=5)))
        assert (second.asked, second.stopped) == (0, "5 requests")
        third = collect(server, tmp_path / "c", options=CollectOptions(budget=Budget(requests=12)))
    assert (third.complete, third.stopped, len(server.asked)) == (True, None, 12)
    bodies = [json.dumps(dict(seen.body), sort_keys=True) for seen in server.asked]
    assert len(set(bodies)) == 12


@pytest.mark.parametrize("concurrency", [1, 7])
def test_a_budget_of_cost_is_never_exceeded(tmp_path: Path, concurrency: int):
    budget = Budget(cost=0.0003, prices=(1.0, 2.0))
    with SimulatedServer() as server:
        got = collect(server, tmp_path / "c", options=CollectOptions(budget=budget, concurrency=concurrency))
        charged = len(server.asked) * (12 * 1.0 + 3 * 2.0) / 1e6
    assert got.stopped == "a cost of 0.0003"
    assert 0 < charged <= 0.0003
    assert got.cost == pytest.approx(charged)
    assert 0 < got.answered < 12


def test_a_kill_in_the_middle_of_a_line_costs_that_line_only(tmp_path: Path):
    with SimulatedServer() as server:
        collect(server, tmp_path / "c")
        path = tmp_path / "c" / ANSWERS
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(lines[:6]) + lines[6][:40])
        before = len(server.asked)
        again = collect(server, tmp_path / "c")
        assert again.complete
        assert len(server.asked) - before == again.asked == 12 - 5  # one line is the session's
    assert len(by_place(Collection.load(tmp_path / "c"))) == 12


def test_nobody_listening_is_one_clear_error(tmp_path: Path):
    with SimulatedServer() as server:
        pass
    with pytest.raises(Unavailable, match="does not answer: ConnectError"):
        collect(server, tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_a_request_that_the_server_cannot_take_is_its_own_words(tmp_path: Path):
    with SimulatedServer() as server, pytest.raises(UnknownName, match="no /generate"):
        collect(server, tmp_path / "c", dialect="sglang")
    with SimulatedServer(kind="llama.cpp") as server, pytest.raises(InvalidConfig, match="no log-probabilities of the"):
        collect(server, tmp_path / "c", prompt_logprobs=True)
