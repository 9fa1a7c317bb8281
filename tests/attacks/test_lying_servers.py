"""Replies that were tampered with are answers or clear errors, and never anything else."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast.errors import Unavailable, UnreadableArtifact
from holdfast.identification.answers import Collection
from holdfast.identification.collectors import ServerRequest, collect_answers
from holdfast.identification.collectors.checking import read_answer
from holdfast.identification.collectors.client import Reply
from holdfast.identification.collectors.dialects import dialect_named
from holdfast.identification.collectors.raw_json import plain, read_raw
from holdfast.identification.collectors.server_facts import ServerFacts
from holdfast.seeds import derive
from holdfast.testing.simulated_replies import Variant
from holdfast.testing.simulated_server import Mischief, SimulatedServer
from holdfast.testing.simulated_wire import read_request, write_reply

KINDS = {"completions": "openai", "chat": "openai", "vllm": "vllm", "vllm-chat": "vllm", "sglang": "sglang"}
KINDS |= {"llama.cpp": "llama.cpp", "tgi": "tgi"}
WEIRD: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    1.5,
    1e308,
    float("nan"),
    float("-inf"),
    10**30,
    "",
    "x",
    "token_id:7",
    "\ud800",
)
WEIRD += ("token_id:" + "9" * 5000, [], {}, [[]], [None], {"token": 1}, {"x": {"logprob": "x"}}, int("9" * 4000))


def honest(name: str) -> tuple[ServerRequest, Any]:
    asked = ServerRequest(
        url="http://h/v1", model="m", dialect=name, tokens=2, top=2, prompt_logprobs=name not in ("chat", "llama.cpp")
    )
    dialect = dialect_named(name)
    body, path = dialect.body(asked, "one two three", 0), f"/{dialect.path}"
    return asked, write_reply(KINDS[name], path, body, Variant(), read_request(path, body))


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from places(item, (*path, key))


def tampered(value: Any, path: tuple[Any, ...], what: Any) -> Any:
    result = copy.deepcopy(value)
    inner = result
    for key in path[:-1]:
        inner = inner[key]
    if what is KeyError:
        del inner[path[-1]]
    else:
        inner[path[-1]] = what
    return result


@pytest.mark.parametrize("name", list(KINDS))
def test_any_part_of_a_reply_may_be_anything(name: str):
    asked, reply = honest(name)
    generator = derive(0, "tamper", name).numpy()
    spots, outcomes = list(places(reply)), []
    for _ in range(300):
        spot = spots[generator.integers(len(spots))]
        what = (*WEIRD, KeyError)[generator.integers(len(WEIRD) + 1)]
        data = json.dumps(tampered(reply, spot, what)).encode()
        try:
            read_answer(Reply(200, {}, data, 0.1), dialect_named(name), asked, prompt=0, repeat=0, digest="0" * 64)
            outcomes.append("read")
        except (UnreadableArtifact, Unavailable) as error:
            outcomes.append(type(error).__name__)
    assert outcomes.count("UnreadableArtifact") > 30
    assert outcomes.count("read") > 30


def test_any_part_of_what_a_server_says_of_itself_may_be_anything():
    listing = {"data": [{"id": "m", "owned_by": "vllm"}]}
    assert ServerFacts({"v1/models": listing}, {}).dialect == "vllm"
    for spot in places(listing):
        for what in (*WEIRD, KeyError):
            said = plain(read_raw(json.dumps(tampered(listing, spot, what)).encode(), "metadata"))
            for value in (said, [said], "text"):
                facts = ServerFacts({"v1/models": value, "props": value, "info": value}, {})
                assert facts.dialect in ("vllm", "completions")
                assert facts.models is None or all(isinstance(name, str) for name in facts.models)


def test_metadata_too_deep_for_a_description_is_left_out(tmp_path: Path):
    pytest.importorskip("httpx2", reason="the extra servers is not installed")
    deep: Any = "bottom"
    for _ in range(200):
        deep = {"x": deep}
    with SimulatedServer(kind="vllm", mischief=Mischief(claims={"/version": deep})) as server:
        request = ServerRequest(url=server.url, tokens=2, top=2)
        got = collect_answers(request, ["one"], tmp_path / "c")
    assert list(Collection.load(tmp_path / "c").server["replies"]) == ["v1/models"]
    assert got.complete
