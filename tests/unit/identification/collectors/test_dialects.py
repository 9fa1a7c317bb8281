"""Replies as real servers write them, down to their oddities, and replies that are none."""

from __future__ import annotations

import pytest

from holdfast.errors import InvalidConfig, Unavailable, UnknownName, UnreadableArtifact
from holdfast.identification.collectors import DIALECTS, ServerRequest
from holdfast.identification.collectors.checking import require_whole
from holdfast.identification.collectors.dialects import dialect_named
from holdfast.identification.collectors.raw_json import plain, read_raw


def read(dialect: str, text: str, *, top: int = 2, tokens: int = 2, prompt: bool = False):
    asked = ServerRequest(url="http://h/v1", model="m", dialect=dialect, top=top, tokens=tokens, prompt_logprobs=prompt)
    reading = dialect_named(dialect).read(read_raw(text.encode(), "the reply"), asked)
    require_whole(reading, asked)
    return reading


def test_completions_keep_digits_order_and_keys_that_stand_twice():
    text = """{"model":"m","system_fingerprint":"fp_1","choices":[{"text":"\\ufffd b","finish_reason":"length",
    "logprobs":{"tokens":["\\ufffd"," b"],"token_logprobs":[-0.10,-1e-07],
    "top_logprobs":[{"\\ufffd":-2.50,"\\ufffd":-0.10},{" b":-1e-07," c":-17.0}],"text_offset":[0,1]}}],
    "usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}"""
    got = read("completions", text)
    assert [token.logprob for token in got.tokens] == ["-0.10", "-1e-07"]
    assert got.tokens[0].top == (("\ufffd", "-0.10"), ("\ufffd", "-2.50"))
    assert got.tokens[0].numbers == ("-0.10", "-2.50")
    assert (got.says, got.used) == ({"model": "m", "system_fingerprint": "fp_1"}, (3, 2))


def test_an_echoed_prompt_is_told_from_what_was_generated():
    text = """{"choices":[{"text":"one two three","finish_reason":"length","logprobs":{"tokens":["one"," two"," three"],
    "token_logprobs":[null,-2.5,-0.5],"top_logprobs":[null,{" x":-1.5," y":-2.0},{" three":-0.5," z":-3.5}]}}],
    "usage":{"prompt_tokens":2,"completion_tokens":1}}"""
    got = read("completions", text, tokens=1, prompt=True)
    assert [(token.token, token.logprob) for token in got.prompt_tokens] == [("one", None), (" two", "-2.5")]
    assert [token.token for token in got.tokens] == [" three"]
    assert got.text == " three"
    with pytest.raises(UnreadableArtifact, match="does not say how many tokens"):
        read("completions", text.replace("usage", "abuse"), tokens=1, prompt=True)


def test_vllm_names_tokens_by_number_and_lists_the_prompt_by_number():
    text = """{"choices":[{"text":" b","finish_reason":"length","stop_reason":null,"token_ids":[7],
    "prompt_token_ids":[1,5],"logprobs":{"tokens":["token_id:7"],"token_logprobs":[-0.25],
    "top_logprobs":[{"token_id:7":-0.25,"token_id:9":-2.0}]},
    "prompt_logprobs":[null,{"3":{"logprob":-0.5,"rank":1,"decoded_token":"x"},
    "5":{"logprob":-4.0,"rank":9,"decoded_token":"a"}}]}],"usage":{"prompt_tokens":2,"completion_tokens":1}}"""
    got = read("vllm", text, tokens=1, prompt=True)
    assert (got.tokens[0].token_id, got.tokens[0].top[1]) == (7, ("token_id:9", "-2.0"))
    first, second = got.prompt_tokens
    assert (first.token_id, first.logprob) == (1, None)
    assert (second.token_id, second.token, second.logprob) == (5, "a", "-4.0")
    assert second.top == (("token_id:3", "-0.5"), ("token_id:5", "-4.0"))


def test_llama_cpp_writes_completions_as_others_write_chat_and_adds_numbers():
    text = """{"choices":[{"text":"\\u00e9","index":0,"logprobs":{"content":[{"id":10,"token":"\\ufffd","bytes":[195],
    "logprob":-0.0,"top_logprobs":[{"id":10,"token":"\\ufffd","bytes":[195],"logprob":-0.0},
    {"id":11,"token":"\\ufffd","bytes":[196],"logprob":-9.5}]}]},"finish_reason":"length"}],"model":"m",
    "system_fingerprint":"b5000","usage":{"completion_tokens":1,"prompt_tokens":4,"total_tokens":5}}"""
    got = read("llama.cpp", text, tokens=1)
    assert (got.tokens[0].token_id, got.tokens[0].bytes_, got.tokens[0].logprob) == (10, (195,), "-0.0")
    assert got.tokens[0].numbers == ("-0.0", "-9.5")


def test_sglang_writes_triples_and_its_finish_as_an_object():
    text = """{"text":" b","output_ids":[7],"meta_info":{"id":"x","finish_reason":{"type":"length","length":1},
    "prompt_tokens":2,"completion_tokens":1,"input_token_logprobs":[[null,1,"<s>"],[-3.5,5," a"]],
    "input_top_logprobs":[null,[[-0.5,3,null],[-1.5,4,null]]],"output_token_logprobs":[[-0.25,7," b"]],
    "output_top_logprobs":[[[-0.25,7,null],[-2.0,9,null]]]}}"""
    got = read("sglang", text, tokens=1, prompt=True)
    assert (got.finish, got.used, got.tokens[0].top[1]) == ("length", (2, 1), ("token_id:9", "-2.0"))
    assert [(token.token_id, token.logprob) for token in got.prompt_tokens] == [(1, None), (5, "-3.5")]


@pytest.mark.parametrize(
    ("dialect", "text"),
    [
        ("completions", '{"choices":[{"text":"a","logprobs":null}]}'),
        ("completions", '{"choices":[{"text":"a"}]}'),
        ("chat", '{"choices":[{"message":{"content":"a"},"logprobs":null}]}'),
        ("sglang", '{"text":"a","meta_info":{"finish_reason":null}}'),
        ("tgi", '{"generated_text":"a"}'),
        (
            "completions",
            '{"choices":[{"text":"ab","finish_reason":"length","logprobs":{"tokens":["a","b"],'
            '"token_logprobs":[-1.0,-1.0],"top_logprobs":null}}]}',
        ),
    ],
)
def test_no_log_probabilities_is_said_in_one_way(dialect: str, text: str):
    with pytest.raises(Unavailable, match=r"gives no (top )?log-probabilities for m"):
        read(dialect, text)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "no JSON"),
        ('{"choices":[', "no JSON"),
        ("[" * 100_000, "no JSON"),
        ('{"choices":{}}', "choices is Object, not a list"),
        ('{"choices":[]}', "no choice"),
        ('{"choices":[7]}', "choice is Number"),
        ('{"choices":[{"text":"a","logprobs":{"tokens":["a"],"token_logprobs":[]}}]}', "1 tokens have 0"),
        ('{"choices":[{"text":"a","logprobs":{"tokens":["a"],"token_logprobs":["-1"]}}]}', "not a number"),
        ('{"choices":[{"text":"a","logprobs":{"tokens":[3],"token_logprobs":[-1]}}]}', "token is Number, not text"),
        ('{"choices":[{"text":"a","logprobs":{"content":[{"token":"a","bytes":[300],"logprob":-1}]}}]}', "0 .. 255"),
        ('{"choices":[{"text":"a","logprobs":{"content":[{"token":"a","id":1.5,"logprob":-1}]}}]}', "whole number"),
    ],
)
def test_malformed_replies_are_named(text: str, match: str):
    with pytest.raises(UnreadableArtifact, match=match):
        read("completions", text)


@pytest.mark.parametrize(
    ("finish", "said", "charged", "match"),
    [
        ("length", 1, 1, "truncated after 1 of 2 tokens"),
        (None, 1, 1, "truncated after 1 of 2 tokens"),
        ("stop", 1, 9, "9 tokens were charged, 1 came"),
        ("length", 3, 3, "has 3 tokens, 2 were asked for"),
    ],
)
def test_truncated_answers_are_told_from_those_that_ended(finish, said: int, charged: int, match: str):
    reason = "null" if finish is None else f'"{finish}"'
    text = """{"choices":[{"text":"","finish_reason":%s,
    "logprobs":{"tokens":%s,"token_logprobs":%s,"top_logprobs":%s}}],"usage":{"prompt_tokens":1,"completion_tokens":%d}}"""
    parts = ['["a"]', "[-1.5]", '[{"a":-1.5,"b":-2.5}]']
    lists = [part[0] + ",".join([part[1:-1]] * said) + part[-1] for part in parts]
    with pytest.raises(UnreadableArtifact, match=match):
        read("completions", text % (reason, *lists, charged))
    ended = text % ('"stop"', *(part for part in parts), 2)  # the end of the text is charged, and not shown
    assert len(read("completions", ended).tokens) == 1


def test_every_dialect_asks_for_what_was_asked():
    for name, dialect in DIALECTS.items():
        asked = ServerRequest(url="http://h/v1", model="m", dialect=name, tokens=5, top=7, temperature=0.5, seed=2)
        body = str(dialect.body(asked, "the prompt", 3))
        assert all(part in body for part in ("the prompt", "5", "7", "0.5")), name
    assert dialect_named("completions").body(asked, "p", 3)["seed"] == 5


def test_what_a_dialect_cannot_ask_is_refused():
    for name in ("chat", "llama.cpp"):
        asked = ServerRequest(url="http://h/v1", model="m", dialect=name, prompt_logprobs=True)
        with pytest.raises(InvalidConfig, match="no log-probabilities of the prompt"):
            dialect_named(name).body(asked, "p", 0)
    with pytest.raises(UnknownName, match="vlm"):
        dialect_named("vlm")


def test_metadata_becomes_plain_without_losing_digits():
    value = plain(read_raw(b'{"n": 12345678901234567890, "x": 0.10, "s": "\\ud800", "l": [null, true]}', "metadata"))
    assert value == {"n": "12345678901234567890", "x": "0.10", "s": "\ufffd", "l": [None, True]}
