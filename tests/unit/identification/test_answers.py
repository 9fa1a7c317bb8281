"""The folder of answers: what goes in comes out, a kill costs one line at most, damage is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from holdfast.errors import DigestMismatch, UnreadableArtifact, UnsupportedVersion
from holdfast.evidence import canonical
from holdfast.identification import dtype_from_logprobs
from holdfast.identification.answers import (
    ANSWERS,
    COLLECTION_TYPE,
    DESCRIPTION,
    Answer,
    Collection,
    TokenAnswer,
    digest_of_prompts,
)


def token(text="a", number=None, logprob="-0.50000000001", top=(("a", "-0.50000000001"), ("b", "-1.25")), raw=None):
    return TokenAnswer(token=text, token_id=number, bytes_=raw, logprob=logprob, top=top)


def answer(prompt=0, tokens=None, **kwargs):
    given = {"repeat": 0, "request_digest": f"{prompt:064x}", "prompt_tokens": (), "finish": "length"}
    given |= {"seconds": 0.25, "server": {"model": "m"}} | kwargs
    return Answer(prompt=prompt, tokens=(token(),) if tokens is None else tokens, **given)


def folder_of(path: Path, answers, prompts=("one", "two"), **changes):
    value = {"type": COLLECTION_TYPE, "prompts": list(prompts), "digest": digest_of_prompts(prompts)}
    value |= {"request": {"repeat": 2}, "client": {"cpu": "mine"}, "server": {"version": "theirs"}} | changes
    (path / DESCRIPTION).write_bytes(canonical.dumps(value))
    lines = [json.dumps({"kind": "answer"} | item.to_json()) for item in answers]
    (path / ANSWERS).write_text("".join(f"{line}\n" for line in lines))
    return path


def test_what_goes_in_comes_out(tmp_path: Path):
    first = answer(0, (token(number=7, raw=(0, 255), logprob="-1e-07"), token(logprob=None, top=())))
    second = answer(1, (), prompt_tokens=(token(logprob=None, top=()), token()), finish=None, server={})
    found = Collection.load(folder_of(tmp_path, [first, second]))
    assert list(found.answers()) == [first, second]
    assert found.prompts == ("one", "two")
    assert (found.client, found.server) == ({"cpu": "mine"}, {"version": "theirs"})


def test_numbers_keep_the_digits_that_the_server_sent(tmp_path: Path):
    texts = ("-0.10000000149011612", "-3.1000000000000000", "-2e1")
    said = token(logprob=texts[0], top=(("a", texts[0]), ("b", texts[1]), ("c", texts[2])))
    found = Collection.load(folder_of(tmp_path, [answer(tokens=(said,))]))
    assert [positions for _, positions in found.logprobs()] == [(texts,)]


def test_a_sampled_token_outside_the_top_counts_and_one_inside_counts_once():
    inside = token("b", 2, "-1.5", (("token_id:1", "-0.5"), ("token_id:2", "-1.5")))
    outside = token("c", 3, "-4.5", (("token_id:1", "-0.5"), ("token_id:2", "-1.5")))
    assert inside.numbers == ("-0.5", "-1.5")
    assert outside.numbers == ("-0.5", "-1.5", "-4.5")


def test_two_tokens_with_the_same_text_are_two():
    same = token("\ufffd", 200, "-0.5", (("token_id:200", "-0.5"), ("token_id:201", "-0.75")))
    assert same.numbers == ("-0.5", "-0.75")


def test_what_stands_for_no_value_is_none_and_does_not_reach_the_grid_rules():
    said = token(
        top=(("a", "-0.5"), ("b", "-9999.0"), ("c", "-Infinity"), ("d", "NaN"), ("e", "-1.25")), logprob="-0.5"
    )
    assert said.numbers == ("-0.5", "-1.25")
    assert dtype_from_logprobs([said.numbers]).formats.formats


def test_text_is_put_together_from_bytes_where_tokens_cut_characters():
    whole = "é".encode()
    halves = (token("\ufffd", raw=(whole[0],)), token("\ufffd", raw=(whole[1],)))
    assert answer(tokens=halves).text == "é"
    assert answer(tokens=(token("x"), token("y"))).text == "xy"


def test_a_line_that_a_kill_cut_short_is_left_out(tmp_path: Path):
    folder = folder_of(tmp_path, [answer(0), answer(1)])
    data = (folder / ANSWERS).read_bytes()
    for cut in (1, 20, len(data) // 2 - 1):
        (folder / ANSWERS).write_bytes(data[:-cut])
        assert [item.prompt for item in Collection.load(folder).answers()] == [0]


@pytest.mark.parametrize("line", ["{", "[]", '{"kind":7}', '{"kind":"answer"}', '{"kind":"answer","prompt":0}'])
def test_a_damaged_line_is_named(tmp_path: Path, line: str):
    folder = folder_of(tmp_path, [answer(0)])
    with (folder / ANSWERS).open("a") as handle:
        handle.write(f"{line}\n")
    with pytest.raises(UnreadableArtifact, match=r"line 2 of .*answers\.jsonl is damaged"):
        list(Collection.load(folder).answers())


def test_another_version_and_other_prompts_are_refused(tmp_path: Path):
    with pytest.raises(UnsupportedVersion, match="collection/v1"):
        Collection.load(folder_of(tmp_path, [], type="holdfast.collection/v2"))
    with pytest.raises(DigestMismatch, match="prompts"):
        Collection.load(folder_of(tmp_path, [], prompts=("one", "other"), digest=digest_of_prompts(["one", "two"])))
    with pytest.raises(UnreadableArtifact):
        Collection.load(tmp_path / "absent")
