"""``holdfast run`` on a model and on a server, as a person meets it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from holdfast.cli import main
from holdfast.evidence.record import Record
from holdfast.execution import Trace
from holdfast.identification.answers import Collection
from holdfast.models import build_architecture, save
from holdfast.testing.simulated_server import Mischief, SimulatedServer

KEY = "sk-0123456789abcdef"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    save(build_architecture("digits-cnn", seed=0), tmp_path / "m")
    return tmp_path


def test_a_trace_is_signed_and_verified_and_a_change_is_found(place: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["keygen", "author"]) == 0
    assert main(["run", "m", "--probes", "4", "-o", "t", "--key", "file:author.pem", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert main(["verify", "t", "--trust", "author.pub", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["signer"] == said["signer"]
    record = Record.from_bytes((place / "t" / "records" / "platform-trace.json").read_bytes())
    trace = Trace.load("t")
    assert record.subject.digest["blake3"] == trace.model_digest == said["model"]
    assert record.inputs["probes"] == trace.probe_digest
    other = Trace(trace.outputs + 1, trace.probe_digest, trace.model_digest, trace.platform)
    other.save("t")
    assert main(["verify", "t", "--trust", "author.pub"]) == 1
    assert "changed" in capsys.readouterr().err


def test_another_trace_is_not_overwritten_silently(place: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["run", "m", "--probes", "4", "-o", "t"]) == 0
    before = (place / "t" / "outputs.safetensors").read_bytes()
    assert main(["run", "m", "--probes", "4", "-o", "t"]) == 0  # the very same
    assert main(["run", "m", "--probes", "5", "-o", "t"]) == 2
    assert "holds a trace of another probes" in capsys.readouterr().err
    save(build_architecture("digits-cnn", seed=1), place / "n")
    assert main(["run", "n", "--probes", "4", "-o", "t"]) == 2
    assert "another model" in capsys.readouterr().err
    assert main(["run", "m", "--probes", "4", "--platform", "bf16", "-o", "t"]) == 2
    assert (place / "t" / "outputs.safetensors").read_bytes() == before
    assert main(["run", "n", "--probes", "4", "-o", "t", "--replace"]) == 0
    assert (place / "t" / "outputs.safetensors").read_bytes() != before
    assert main(["run", "m", "--probes", "4", "-o", "m"]) == 2
    assert "something else" in capsys.readouterr().err


def test_other_bits_of_the_same_platform_are_not_overwritten(place: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["run", "m", "--probes", "4", "-o", "t"]) == 0
    trace = Trace.load("t")
    words = trace.outputs.view(torch.int32).clone()
    words[0, 0] ^= 1
    Trace(words.view(torch.float32), trace.probe_digest, trace.model_digest, trace.platform).save("t")
    assert main(["run", "m", "--probes", "4", "-o", "t"]) == 2
    assert "other bits of the same model" in capsys.readouterr().err


def test_options_of_the_other_kind_are_refused_by_name(place: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["run", "m", "-o", "t", "--tokens", "4", "--api-key-env", "X"]) == 2
    assert "run without --api-key-env, --tokens" in capsys.readouterr().err
    assert main(["run", "http://127.0.0.1:1/v1", "-o", "t", "--platform", "bf16"]) == 2
    assert "run without --platform" in capsys.readouterr().err
    assert main(["run", "m", "-o", "t", "--probes", "prompts.txt"]) == 2
    assert main(["run", "m", "-o", "t", "--shape", "3xb"]) == 2
    assert not (place / "t").exists()


def test_answers_of_a_server_are_collected_signed_and_complete(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch
):
    pytest.importorskip("httpx2", reason="the extra servers is not installed")
    monkeypatch.setenv("SERVER_KEY", KEY)
    (place / "p.txt").write_text("one two\nthree\n")
    main(["keygen", "author"])
    with SimulatedServer(kind="vllm", key=KEY) as server:
        call = ["run", server.url, "--probes", "p.txt", "--tokens", "2", "--top", "3", "--api-key-env", "SERVER_KEY"]
        call += ["-o", "a", "--key", "file:author.pem", "--json", "--model", "simulated", "--prompt-logprobs"]
        capsys.readouterr()
        assert main(call) == 0
        out, err = capsys.readouterr()
        said = json.loads(out)
        assert main(call) == 0
        assert len(server.asked) == 2
    assert (said["answered"], said["total"], said["dialect"], said["stopped"]) == (2, 2, "vllm", None)
    assert KEY not in out + err
    assert KEY.encode() not in b"".join(path.read_bytes() for path in (place / "a").rglob("*") if path.is_file())
    assert main(["verify", "a", "--trust", "author.pub"]) == 0
    assert Collection.load("a").prompts == ("one two", "three")
    record = Record.from_bytes((place / "a" / "records" / "server-answers.json").read_bytes())
    assert record.facts["server"]["replies"]["version"] == {"version": "0.0.simulated"}
    with (place / "a" / "answers.jsonl").open("a") as file:
        file.write("{}\n")
    assert main(["verify", "a", "--trust", "author.pub"]) == 1


def test_a_budget_that_ends_it_exits_with_one_and_goes_on(place: Path, capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("httpx2", reason="the extra servers is not installed")
    with SimulatedServer() as server:
        call = ["run", server.url, "--probes", "6", "--tokens", "2", "--top", "3", "-o", "a"]
        assert main([*call, "--max-cost", "0.00004", "--price", "1,1"]) == 1  # not even one fits
        assert not server.asked
        assert main([*call, "--max-requests", "4"]) == 1
        assert "4 of 6 answers" in (text := capsys.readouterr().err)
        assert "stopped at 4 requests" in text
        assert main(call) == 0
        assert len(server.asked) == 6


def test_one_clear_error_each(place: Path, capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("httpx2", reason="the extra servers is not installed")
    options = ["--probes", "2", "--tokens", "2", "--top", "3"]
    for number, (mischief, more, code, words) in enumerate(
        (
            (Mischief(mute=True), [], 3, "gives no log-probabilities"),
            (Mischief(truncated=1.0), [], 2, "truncated"),
            (Mischief(), ["--model", "other"], 2, "serves no other"),
            (Mischief(), ["--dialect", "chatty"], 2, "chatty"),
            (Mischief(), ["--max-cost", "1"], 2, "needs the prices"),
            (Mischief(), ["--price", "1"], 2, "not two prices"),
            (Mischief(), ["--api-key-env", KEY], 2, "the name given for the key"),
            (Mischief(), ["--probes", "absent.txt"], 2, "absent.txt"),
            (Mischief(), ["--probes", "10000000000000"], 2, "more than the 100,000 of one collection"),
            (Mischief(), ["--probes", "9" * 5000], 2, "more than the 100,000 of one collection"),
            (Mischief(), ["--tokens", "1000000000"], 2, "tokens is 1000000000; more than"),
            (Mischief(), ["--repeat", "1000000000"], 2, "repeat is 1000000000; more than"),
        )
    ):
        with SimulatedServer(kind="vllm", mischief=mischief) as server:
            capsys.readouterr()
            assert main(["run", server.url, *options, *more, "-o", f"a{number}"]) == code
        errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1
        assert words in errors[0]
        assert KEY not in errors[0]


def test_the_seed_of_the_sampling_leaves_the_prompts_alone(place: Path):
    pytest.importorskip("httpx2", reason="the extra servers is not installed")
    with SimulatedServer() as server:
        call = ["run", server.url, "--probes", "2", "--tokens", "2", "--top", "3", "--temperature", "1"]
        assert main([*call, "-o", "a"]) == 0
        assert main([*call, "-o", "b", "--seed", "100"]) == 0
        assert main([*call, "-o", "c", "--prompt-seed", "1"]) == 0
        assert [seen.body["seed"] for seen in server.asked] == [0, 0, 100, 100, 0, 0]
    digests = [Collection.load(name).digest for name in "abc"]
    assert digests[0] == digests[1] != digests[2]
    answers = [[answer.text for answer in Collection.load(name).answers()] for name in "ab"]
    assert answers[0] != answers[1]


def test_a_prompt_that_stands_twice_in_a_file_is_noted_once_and_asked_twice(
    place: Path, capsys: pytest.CaptureFixture[str]
):
    pytest.importorskip("httpx2", reason="the extra servers is not installed")
    Path("prompts.txt").write_text("one\ntwo\none\none\n")
    with SimulatedServer() as server:
        call = ["run", server.url, "--probes", "prompts.txt", "--tokens", "1", "--top", "3", "-o", "a"]
        assert main(call) == 0
        assert len(server.asked) == 4
    said = capsys.readouterr().err
    assert said.count("note: 2 lines of prompts.txt ask what an earlier line asks") == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--probes", "99999999999999"], "GiB"),
        (["--probes", "fixed:99999999999999"], "GiB"),
        (["--probes", "4", "--shape", "1x9999999x9999999"], "GiB"),
        (["--probes", "9" * 5000], "a number of probe inputs"),
        (["--probes", "4", "--shape", "abc"], "'abc' is no shape"),
        (["--probes", "4", "--shape", "1x0x8"], "cannot be made"),
    ],
)
def test_more_probes_than_memory_holds_are_one_clear_error(place: Path, capsys, options: list[str], words: str):
    assert main(["run", "m", *options, "-o", "t"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert words in said
    assert not Path("t").exists()
