"""``platforms``, as typed at a prompt: sweep, resume after a kill, show, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from holdfast.cli import main
from holdfast.data import Dataset
from holdfast.evidence import canonical
from holdfast.evidence.digest import digest_bytes
from holdfast.execution import Trace
from holdfast.identification import LOCAL_PLATFORMS, LocalPlatform
from holdfast.identification.library import Library, Machine, shipped
from holdfast.identification.platforms.run import trace_here
from holdfast.identification.probe_nets import PROBE_NETS, probe_net
from holdfast.models import build_architecture, load, manifest_of, save


def typed(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> tuple[str, str]:
    assert main([str(item) for item in arguments]) == code
    found = capsys.readouterr()
    return found.out, found.err


@pytest.mark.slow
def test_one_model_on_one_platform_and_a_second_call_runs_nothing(tmp_path: Path, capsys) -> None:
    save(probe_net("mlp"), tmp_path / "model")
    call = ("platforms", "build", "-o", tmp_path / "lib", "--model", tmp_path / "model", "--probes", 3, "--platform")
    out, err = typed(capsys, *call, "bf16", "--json")
    assert json.loads(out)["ran"] == ["bf16"]
    assert "1 platform, 1 class, 1 new" in err
    _, err = typed(capsys, *call, "bf16")
    assert "ran 0, had 1 already" in err
    out, err = typed(capsys, "platforms", "show", tmp_path / "lib", "--json")
    shown = json.loads(out)
    assert shown["classes"][0]["labels"] == ["bf16"]
    assert shown["classes"][0]["digest"][:12] in err
    assert [item["name"] for item in shown["subjects"]] == ["model"]


def test_fewer_classes_than_needed_exit_1(capsys) -> None:
    _, err = typed(capsys, "platforms", "show", "shipped", "--at-least", 10_000, code=1)
    assert "fewer classes than needed" in err


def test_settings_that_share_a_reason_share_a_line(capsys) -> None:
    """Fifty settings of a GPU that is not there are one line, and the JSON still has them all."""
    out, err = typed(capsys, "platforms", "show", "shipped", "--json")
    lines = [line for line in err.splitlines() if line.startswith("not here: cuda")]
    assert lines == [
        "not here: cuda, cuda-autocast-bf16, cuda-autocast-bf16-channels-last, cuda-autocast-fp16 and 44 more: "
        "this build of torch computes on no GPU"
    ]
    skipped = {item["platform"] for item in json.loads(out)["skipped"]}
    assert {name for name, item in LOCAL_PLATFORMS.items() if item.device == "cuda"} <= skipped


def test_what_is_wrong_is_one_clear_error(tmp_path: Path, capsys) -> None:
    save(probe_net("mlp"), tmp_path / "model")
    _, err = typed(capsys, "platforms", "build", "-o", tmp_path / "lib", "--platform", "channels-lost", code=2)
    assert "unknown platform" in err
    assert "channels-last" in err
    _, err = typed(capsys, "platforms", "show", tmp_path / "nowhere", code=2)
    assert err.count("error:") == 1
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "library.json").write_text('{"type":"holdfast.platform-library/v7"}')
    for call in (("show", tmp_path / "lib"), ("build", "-o", tmp_path / "lib")):
        _, err = typed(capsys, "platforms", *call, code=2)
        assert "holdfast.platform-library/v7" in err
    assert not list((tmp_path / "lib").glob("outputs-*"))


def test_nets_are_written_for_others_to_serve(tmp_path: Path, capsys) -> None:
    """Whoever computes the written graph on the written inputs has computed the subject of the shipped library."""
    out, _ = typed(capsys, "platforms", "nets", "-o", tmp_path, "--probes", 2, "--onnx", "--json")
    assert set(json.loads(out)["nets"]) == set(PROBE_NETS)
    assert manifest_of(load(tmp_path / "cnn")).digest == manifest_of(probe_net("cnn")).digest
    runtime = pytest.importorskip("onnxruntime")
    inputs = load_file(tmp_path / "inputs.safetensors")["inputs"]
    session = runtime.InferenceSession(tmp_path / "cnn.onnx", providers=["CPUExecutionProvider"])
    answers = torch.from_numpy(session.run(["outputs"], {"inputs": inputs.numpy()})[0])
    with torch.no_grad():
        assert torch.allclose(answers, probe_net("cnn")(inputs), atol=1e-5)


def test_a_net_or_platform_that_does_not_exist_is_named(tmp_path: Path, capsys) -> None:
    _, err = typed(capsys, "platforms", "trace", "resnett", "-o", tmp_path / "t", code=2)
    assert "resnet" in err
    _, err = typed(capsys, "platforms", "trace", "cnn", "--platform", "fp17", "-o", tmp_path / "t", code=2)
    assert "fp16" in err
    _, err = typed(capsys, "platforms", "trace", "cnn", "--platform", "zzz9", "-o", tmp_path / "t", code=2)
    assert "holdfast platforms show lists them" in err
    assert len(err) < 200
    assert not (tmp_path / "t").exists()


def test_a_build_in_which_nothing_ran_is_an_error_and_writes_nothing(tmp_path: Path, capsys) -> None:
    save(build_architecture("digits-cnn", seed=0), tmp_path / "model")  # of one channel
    call = ("platforms", "build", "-o", tmp_path / "lib", "--model", tmp_path / "model", "--probes", 2)
    out, err = typed(capsys, *call, "--shape", "3x8x8", "--platform", "default", "--json", code=2)
    assert "error: no platform ran, so there is nothing to keep: default: " in err
    assert "channels" in err
    assert json.loads(out)["kind"] == "InvalidConfig"
    assert not (tmp_path / "lib").exists()
    _, err = typed(capsys, *call, "--shape", "abc", code=2)
    assert err.startswith("error: 'abc' is no shape")
    assert not (tmp_path / "lib").exists()


def test_a_library_from_elsewhere_prints_no_line_of_its_own(tmp_path: Path, capsys) -> None:
    evil = "evil\x1b[31m\nplatform: fp16"
    made = Library()
    made.add("EVIL", Machine("cpu", (), "Linux", {}), {"net": Trace(torch.zeros(1, 2), "p", "m", {})})
    made.save(tmp_path)
    value = json.loads((tmp_path / "library.json").read_text())
    value["library"]["entries"][0]["platform"] = evil
    value["digest"] = digest_bytes(canonical.dumps(value["library"]))
    (tmp_path / "library.json").write_bytes(canonical.dumps(value))
    _, err = typed(capsys, "platforms", "show", tmp_path, code=2)
    assert "is no name of a platform" in err
    assert not any(line.startswith("platform:") for line in err.splitlines())
    assert "\x1b" not in err


def test_a_trace_of_something_else_is_not_written_over(tmp_path: Path, capsys, monkeypatch) -> None:
    def here(platform: LocalPlatform, model: nn.Module, probes: Dataset, *, fresh: bool) -> Trace:
        return trace_here(platform, model, probes)

    monkeypatch.setattr("holdfast.identification.platforms.trace_on", here)
    place = tmp_path / "trace"
    typed(capsys, "platforms", "trace", "mlp", "--probes", 2, "-o", place)
    before = (place / "outputs.safetensors").read_bytes()
    typed(capsys, "platforms", "trace", "mlp", "--probes", 2, "-o", place)  # the very same
    _, err = typed(capsys, "platforms", "trace", "mlp", "--probes", 3, "-o", place, code=2)
    assert "holds a trace of another probes" in err
    assert (place / "outputs.safetensors").read_bytes() == before
    typed(capsys, "platforms", "trace", "mlp", "--probes", 3, "--replace", "-o", place)
    assert (place / "outputs.safetensors").read_bytes() != before


@pytest.mark.slow
def test_a_trace_of_a_net_finds_its_subject_in_the_shipped_library(tmp_path: Path, capsys) -> None:
    typed(capsys, "platforms", "trace", "cnn", "--platform", "bf16", "-o", tmp_path / "trace")
    assert len(shipped().references(Trace.load(tmp_path / "trace"))) > 30


@pytest.mark.slow
def test_a_killed_sweep_is_resumed_by_the_same_call(tmp_path: Path, capsys) -> None:
    save(probe_net("mlp"), tmp_path / "model")
    arguments = ["platforms", "build", "-o", str(tmp_path / "lib"), "--model", str(tmp_path / "model")]
    for name in ("default", "batch-1", "bf16", "fp16", "onednn-off"):
        arguments += ["--platform", name]
    code = f"from holdfast.cli import main; main({arguments!r})"
    process = subprocess.Popen([sys.executable, "-c", code], env=os.environ, stderr=subprocess.DEVNULL)
    while not (tmp_path / "lib" / "library.json").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    before = set(Library.load(tmp_path / "lib").labels().values())
    assert 1 <= len(before) < 5
    out, _ = typed(capsys, *arguments, "--json")
    assert set(json.loads(out)["kept"]) == before
    assert len(Library.load(tmp_path / "lib").entries) == 5


def traced(capsys, model: Path, out: Path, *options: object) -> dict:
    text, _ = typed(capsys, "run", model, "-o", out, "--json", *options)
    return json.loads(text)


@pytest.mark.slow
@pytest.mark.parametrize("probes", [(), ("--probes", 5), ("--probes", "fixed:3")])
def test_a_model_of_ones_own_from_its_library_to_the_name_of_a_platform(tmp_path: Path, capsys, probes) -> None:
    """The whole story of a user: build a library of a model, run the model somewhere, ask where that was."""
    model, lib = tmp_path / "model", tmp_path / "lib"
    save(probe_net("cnn"), model)
    wanted = [word for name in ("default", "bf16", "onednn-off") for word in ("--platform", name)]
    built, _ = typed(capsys, "platforms", "build", "-o", lib, "--model", model, *probes, *wanted, "--json")
    for name in ("bf16", "onednn-off"):
        found = traced(capsys, model, tmp_path / name, "--platform", name, *probes)
        assert found["probes"] == json.loads(built)["subjects"][0]["probes"]
        answer, _ = typed(capsys, "identify", tmp_path / name, "--against", lib, "--json")
        assert json.loads(answer)["platform"] == name
    traced(capsys, model, tmp_path / "elsewhere", "--platform", "fp64", *probes)
    answer, _ = typed(capsys, "identify", tmp_path / "elsewhere", "--against", lib, "--json", code=1)
    assert json.loads(answer)["platform"] == "unknown"


def test_a_net_of_the_package_run_by_hand_meets_the_shipped_library(tmp_path: Path, capsys) -> None:
    save(probe_net("mlp"), tmp_path / "mlp")
    found = traced(capsys, tmp_path / "mlp", tmp_path / "trace", "--probes", "fixed:4", "--platform", "fp64")
    assert found["probes"] in {item.probe_digest for item in shipped().subjects()}
    answer, _ = typed(capsys, "identify", tmp_path / "trace", "--against", "shipped", "--json")
    assert "fp64" in json.loads(answer)["labels"]
    traced(capsys, tmp_path / "mlp", tmp_path / "other", "--probes", 5)
    _, err = typed(capsys, "identify", tmp_path / "other", "--against", "shipped", code=2)
    assert "with other probes than the trace's 5: it has 4" in err
    assert "--probes 4 (fixed:4" in err
    _, err = typed(capsys, "run", tmp_path / "mlp", "-o", tmp_path / "none", "--probes", "fixed:many", code=2)
    assert "not on 'fixed:many'" in err


@pytest.mark.slow
def test_the_orders_of_this_machine_are_those_of_its_kernels(capsys) -> None:
    out, err = typed(capsys, "platforms", "show", "--orders", "--json")
    told = json.loads(out)
    assert told["addends"] == 512
    assert told["orders"]["torch-mm"]["digest"] != told["orders"]["torch-sum"]["digest"]
    assert told["orders"]["torch-mm"]["digest"][:12] in err
    digests = {item["digest"] for item in told["orders"].values() if "digest" in item}
    assert f"{len(digests)} orders in {len(told['orders'])} kernels, sums of 512" in err
