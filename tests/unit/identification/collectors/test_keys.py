"""The key of a server reaches that server and nobody else: no argument, no log, no store, no other host."""

from __future__ import annotations

import traceback
from pathlib import Path

import pytest

from holdfast.errors import InvalidConfig, Unavailable
from holdfast.identification.collectors import (
    CollectOptions,
    Patience,
    Secret,
    ServerRequest,
    collect_answers,
    read_secret,
    word_prompts,
)
from holdfast.testing.simulated_server import Mischief, SimulatedServer

pytest.importorskip("httpx2", reason="the extra servers is not installed")
KEY = "sk-0123456789abcdef"


def collect(server, out, key=KEY, **request):
    options = CollectOptions(secret=Secret(key, "a test"), patience=Patience(attempts=6, first=0.01))
    return collect_answers(
        ServerRequest(url=server.url, tokens=2, top=3, **request), word_prompts(3), out, options=options
    )


def everything_in(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_a_key_from_the_environment_or_a_file_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MY_SERVER_KEY", f" {KEY}\n")
    (tmp_path / "key").write_text(f"{KEY}\n")
    assert read_secret(env="MY_SERVER_KEY").value == read_secret(file=tmp_path / "key").value == KEY
    assert not read_secret().value
    with SimulatedServer(key=KEY) as server:
        assert collect(server, tmp_path / "c").complete
        assert all(seen.headers["authorization"] == f"Bearer {KEY}" for seen in server.seen)
    assert KEY.encode() not in everything_in(tmp_path / "c")


def test_a_key_given_for_the_name_of_the_variable_is_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(InvalidConfig) as caught:
        read_secret(env=KEY)
    assert KEY not in str(caught.value) + caught.value.hint
    monkeypatch.setenv("EMPTY", "")
    for env in ("EMPTY",):
        with pytest.raises(InvalidConfig, match="EMPTY holds no key"):
            read_secret(env=env)
    with pytest.raises(InvalidConfig, match="not from both"):
        read_secret(env="A", file=tmp_path)


def test_a_key_does_not_show_in_a_traceback():
    secret = Secret(KEY, "a test")
    try:
        raise ValueError(f"{secret} {secret!r} {[secret]}")
    except ValueError:
        assert KEY not in traceback.format_exc()


def test_a_server_that_echoes_the_key_does_not_get_it_stored(tmp_path: Path):
    mischief = Mischief(echo_key=True, failing=0.3)
    with SimulatedServer(key=KEY, mischief=mischief, seed=1) as server:
        got = collect(server, tmp_path / "c")
        assert server.asked
    assert KEY.encode() not in everything_in(tmp_path / "c")
    assert all("[key]" in answer.server["system_fingerprint"] for answer in got.collection.answers())


def test_an_error_that_echoes_the_key_is_shown_without_it(tmp_path: Path):
    with (
        SimulatedServer(mischief=Mischief(echo_key=True, failing=1.0)) as server,
        pytest.raises(Unavailable, match=r"fails \(500\): out of memory \(Bearer \[key\]\)"),
    ):
        collect(server, tmp_path / "c")
    assert KEY.encode() not in everything_in(tmp_path)


def test_a_refused_key_is_one_error_that_names_where_it_came_from(tmp_path: Path):
    with SimulatedServer(key="sk-another-one") as server:
        with pytest.raises(Unavailable, match=r"refuses \(401\): the key from a test"):
            collect(server, tmp_path / "c")
        with pytest.raises(Unavailable, match=r"refuses \(401\): no key"):
            collect(server, tmp_path / "c", key="")
        assert not server.asked


def test_a_redirect_to_another_host_is_not_followed(tmp_path: Path):
    with SimulatedServer() as other:
        with SimulatedServer(mischief=Mischief(redirect=other.url.removesuffix("/v1"))) as server:
            with pytest.raises(InvalidConfig, match=r"redirects to http://127\.0\.0\.1:\d+, which was sent nothing"):
                collect(server, tmp_path / "c")
            assert server.seen
        assert not other.seen
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    "url",
    ["http://user:pass@host/v1", "http://host/v1?key=x", "http://host/v1#x", "ftp://host", "host:80", "http:///v1"],
)
def test_addresses_that_may_hold_a_key_are_refused(url: str):
    with pytest.raises(InvalidConfig):
        ServerRequest(url=url)


def test_what_a_server_says_of_its_own_keys_is_not_kept(tmp_path: Path):
    claims = {"/get_server_info": {"api_key": "sk-own", "nested": [{"admin_token": "t"}], "tokenizer": "kept"}}
    with SimulatedServer(kind="sglang", mischief=Mischief(claims=claims)) as server:
        got = collect(server, tmp_path / "c")
    said = got.collection.server["replies"]["get_server_info"]
    assert said == {"api_key": "[key]", "nested": [{"admin_token": "[key]"}], "tokenizer": "kept"}


def test_a_key_over_plain_http_to_this_machine_is_no_cause_for_a_note(tmp_path: Path):
    with SimulatedServer(key=KEY) as server:
        assert collect(server, tmp_path / "c").notes == ()
