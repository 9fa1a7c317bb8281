"""``holdfast shield export`` and what its folders are good for: plans, gateways, campaigns, signatures."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import holdfast
from holdfast.cli import main
from holdfast.models import build_architecture, manifest_of, save
from holdfast.shielding.graph import IntegerModel, export
from tests.unit.shielding.gateway.places import until
from tests.unit.shielding.planner.test_plan import FAST_WORKER


class Unusual(nn.Module):
    """Has two operations without an exact form."""

    def __init__(self) -> None:
        super().__init__()
        self.flatten, self.first, self.second = nn.Flatten(), nn.Linear(64, 8), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cumprod(self.first(self.flatten(x)), 1)
        return self.second(torch.sin(x))  # type: ignore[no-any-return]


def unusual() -> nn.Module:
    return Unusual()


@pytest.fixture(scope="module")
def integer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kept")
    save(build_architecture("digits-cnn"), folder / "float")
    out = folder / "integer"
    assert main(["shield", "export", str(folder / "float"), "--data", "digits", "--samples", "32", "-o", str(out)]) == 0
    return out


@pytest.fixture
def machine(tmp_path: Path) -> str:
    path = tmp_path / "machine.json"
    path.write_text(json.dumps(FAST_WORKER.to_json()))
    return str(path)


@pytest.fixture
def planned(integer: Path, machine: str, tmp_path: Path) -> Callable[..., Path]:
    def make(*options: str, model: str = str(integer)) -> Path:
        out = tmp_path / "plan.json"
        assert main(["shield", "plan", model, "--machine", machine, *options, "-o", str(out)]) == 0
        return out

    return make


def test_the_folder_is_what_export_makes_in_python(integer: Path) -> None:
    train = holdfast.dataset("digits", split="train").take(32)
    images, _ = train.batch(torch.arange(8))
    model = export(build_architecture("digits-cnn").eval(), images[:1], train)
    again = IntegerModel.load(integer)
    assert torch.equal(again(images), model(images))
    assert again.bounds() == model.bounds()
    assert manifest_of(again).digest == manifest_of(model).digest


def test_bounds_are_printed_and_are_one_json_object(
    integer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["shield", "export", "digits-cnn", "--data", "digits", "--samples", "16", "--top-code", "64"]
    assert main([*arguments, "-o", str(tmp_path / "out"), "--json"]) == 0
    out, err = capsys.readouterr()
    told, model = json.loads(out), IntegerModel.load(tmp_path / "out")
    assert told["top_code"] == model.top_code == 64
    assert told["model"] == manifest_of(model).digest
    assert {row["node"]: row["bound"] for row in told["nodes"] if row["bound"]} == model.bounds()
    for name, bound in model.bounds().items():
        assert f"{name} " in err
        assert f"{bound:,}" in err
    assert "trusted as well" in err


def test_everything_that_cannot_be_exported_is_named_with_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(unusual(), tmp_path / "odd")
    arguments = ["shield", "export", str(tmp_path / "odd"), "--arch", "tests.cli.test_shield_export:unusual"]
    assert main([*arguments, "--data", "digits", "-o", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err
    assert "2 nodes cannot be exported" in told
    for name in ("aten.cumprod.default", "aten.sin.default"):
        (line,) = [line for line in told.splitlines() if name in line]
        assert "test_shield_export.py:" in line
    assert told.count("hint: replace the operation") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["INTEGER", "--data", "digits"], "exported already"),
        (["cifar-resnet20", "--data", "digits"], "made for 3x32x32"),
        (["digits-cnn", "--data", "digits", "--example", "64"], "length of a text"),
        (["no-such-net", "--data", "digits"], "unknown architecture"),
        (["digits-cnn", "--data", "digots"], "unknown dataset"),
    ],
)
def test_what_cannot_be_asked_for_is_one_clear_error(
    arguments: list[str], message: str, integer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    filled = [str(integer) if word == "INTEGER" else word for word in arguments]
    assert main(["shield", "export", *filled, "-o", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("error:") == 1
    assert not (tmp_path / "out").exists()


def test_an_export_is_not_written_over_its_model(integer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = str(integer.parent / "float")
    assert main(["shield", "export", source, "--data", "digits", "-o", source]) == 2
    assert "would overwrite" in capsys.readouterr().err


@pytest.mark.slow
def test_a_language_model_is_exported_on_text(shared_data: Path, tmp_path: Path) -> None:
    llama, text = shared_data / "tiny-llama-260k", shared_data / "wikitext-2" / "tiny-shakespeare.txt"
    data = f"text:{text},tokenizer={llama / 'tok512.bin'}"
    arguments = ["shield", "export", str(llama), "--data", data, "--example", "12", "--samples", "4"]
    assert main([*arguments, "-o", str(tmp_path / "out")]) == 0
    model = IntegerModel.load(tmp_path / "out")
    assert (model.input_shape, model.vocabulary) == ((12,), 512)
    tokens = torch.randint(3, 512, (2, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = holdfast.load(llama)(tokens)
    assert (model(tokens) - expected).norm() < 0.2 * expected.norm()


def test_a_plan_names_its_model(integer: Path, planned: Callable[..., Path]) -> None:
    plan = json.loads(planned("--rule", "optimal:hide_weights=fc").read_bytes())
    assert plan["model"] == manifest_of(holdfast.load(integer)).digest
    assert {node["name"]: node["placement"] for node in plan["nodes"]}["fc"] == "trusted"


def test_a_plan_for_an_exported_model_takes_no_other_sizes(
    integer: Path, machine: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["shield", "plan", str(integer), "--machine", machine, "--top-code", "64"]) == 2
    assert "leave out --top-code" in capsys.readouterr().err


def serve(*arguments: str) -> int:
    return main(["serve", "gateway", *arguments, "--http", "127.0.0.1:0"])


def test_a_gateway_refuses_plans_that_do_not_fit(
    integer: Path, planned: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("uvicorn", reason="uvicorn is not installed: pip install 'holdfast[gateway]'")
    assert serve(str(integer), "--plan", str(planned("--rule", "slalom", model="simplenet:channels=4"))) == 1
    assert "is of model" in capsys.readouterr().err
    assert serve(str(integer), "--plan", str(planned("--rule", "tsqp"))) == 2
    assert "no session believes an answer unchecked" in capsys.readouterr().err
    assert serve(str(integer), "--plan", str(planned("--rule", "slalom")), "--placement", "verified") == 2
    assert "--plan and --placement contradict" in capsys.readouterr().err
    assert serve(str(integer), "--data", "digits", "--samples", "3") == 2
    assert "leave out --data, --samples" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["serve", "plan", "campaign"])
def test_a_damaged_folder_is_one_clear_error_everywhere(
    verb: str, integer: Path, machine: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "damaged"
    folder.mkdir()
    for name in ("model.json", "program.json", "model.safetensors"):
        (folder / name).write_bytes((integer / name).read_bytes())
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "model.safetensors").write_bytes(bytes(data))
    calls = {
        "serve": ["serve", "gateway", str(folder), "--http", "127.0.0.1:0"],
        "plan": ["shield", "plan", str(folder), "--machine", machine],
        "campaign": ["campaign", str(folder), "--data", "digits", "--at", "offload", "--trials", "9", "-o",
                     str(tmp_path / "run")],
    }  # fmt: skip
    assert main(calls[verb]) == 1
    told = capsys.readouterr().err
    assert "is not the one that was exported" in told
    assert told.count("error:") == 1


@pytest.fixture
def process() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    running: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str, log: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", "from holdfast.cli import entry; entry()", *arguments]
        with log.open("wb") as stderr:
            running.append(subprocess.Popen(command, stderr=stderr))
        return running[-1]

    yield start
    for item in running:
        item.kill()
        item.wait()


@pytest.mark.slow
def test_a_gateway_serves_the_folder_under_its_plan(
    integer: Path, planned: Callable[..., Path], tmp_path: Path, process: Callable[..., subprocess.Popen[bytes]]
) -> None:
    import signal
    import urllib.request

    pytest.importorskip("uvicorn", reason="uvicorn is not installed: pip install 'holdfast[gateway]'")
    plan, log = planned("--rule", "optimal:hide_weights=fc"), tmp_path / "log"
    gateway = process("serve", "gateway", str(integer), "--plan", str(plan), "--http", "127.0.0.1:0", log=log)
    until(lambda: "listens on" in log.read_text() and "worker-ready" in log.read_text(), 120)
    url = log.read_text().split("listens on ")[1].split()[0]
    images, _ = holdfast.dataset("digits", split="test").batch(torch.arange(3))
    body = json.dumps({"inputs": images.tolist()}).encode()
    request = urllib.request.Request(url + "/v1/infer", body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        outputs = torch.tensor(json.loads(answer.read())["outputs"])
    assert torch.equal(outputs, holdfast.load(integer)(images))
    gateway.send_signal(signal.SIGTERM)
    assert gateway.wait(60) == 0


def campaign(model: Path, out: Path, *options: str) -> int:
    return main(["campaign", str(model), "--data", "digits", "--trials", "24", "-o", str(out), *options])


def test_every_lie_of_a_worker_is_detected_and_counted(
    integer: Path, planned: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = planned("--rule", "optimal:hide_weights=fc")
    capsys.readouterr()
    assert campaign(integer, tmp_path / "run", "--at", "offload:**", "--plan", str(plan), "--json") == 0
    record = json.loads(capsys.readouterr().out)
    found = record["measured"]["detected"]
    assert (found["value"], found["high"], found["n"]) == (1.0, 1.0, 24)
    assert 0.8 < found["low"] < 0.9  # Wilson's: 24 of 24
    assert record["subject"]["digest"]["blake3"] == manifest_of(holdfast.load(integer)).digest
    assert record["facts"]["offload"]["placements"]["fc"] == "trusted"
    assert {"offload:conv1", "offload:conv2"} <= record["facts"]["by_site"].keys() <= {
        "offload:conv1", "offload:conv2", "offload:conv3"}  # fmt: skip
    assert [step["kind"] for step in record["lineage"]] == ["quantize"]
    assert (tmp_path / "run" / "report.html").exists()


@pytest.mark.slow
def test_a_campaign_over_lies_resumes(integer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        assert campaign(integer, tmp_path / "run", "--at", "offload:conv1", "--fault", "bit-errors:rate=0.01") == 0
    assert "detected         100.0000%" in capsys.readouterr().err


def test_a_worker_that_lies_by_itself_ends_the_campaign(
    integer: Path, tmp_path: Path, process: Callable[..., subprocess.Popen[bytes]], capsys: pytest.CaptureFixture[str]
) -> None:
    socket, log = tmp_path / "worker.sock", tmp_path / "log"
    process("serve", "worker", "--socket", str(socket), "--fault", "bit-flip", log=log)
    until(lambda: "listens on" in log.read_text(), 60)
    assert campaign(integer, tmp_path / "run", "--at", "offload", "--worker", f"unix:{socket}") == 1
    told = capsys.readouterr().err
    assert "the worker returned a wrong product for layer" in told
    assert told.count("error:") == 1


@pytest.mark.parametrize(
    ("model", "options", "code", "message"),
    [
        ("float", ["--at", "offload:**"], 2, "holdfast shield export"),
        ("integer", ["--at", "offload:nowhere"], 2, "no site matches offload:nowhere"),
        ("integer", ["--at", "offload", "--guard", "checksum"], 2, "--guard contradict"),
        ("integer", ["--at", "offload", "--executor", "processes:2"], 2, "--executor contradict"),
        ("integer", ["--at", "activations", "--worker", "spawn"], 2, "--at 'offload:**'"),
        ("integer", ["--at", "offload", "--worker", "unix:/nowhere"], 3, "no worker listens"),
        ("integer", ["--at", "offload", "--plan", "/nowhere.json"], 2, "cannot read plan"),
    ],
)
def test_a_campaign_that_cannot_be_is_one_clear_error(
    model: str, options: list[str], code: int, message: str, integer: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert campaign(integer.parent / model, tmp_path / "run", *options) == code
    told = capsys.readouterr().err
    assert message in told
    assert told.count("error:") == 1


def test_faults_inside_an_integer_model_are_counted_too(
    integer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert campaign(integer, tmp_path / "run", "--at", "activations", "--json") == 0
    assert json.loads(capsys.readouterr().out)["measured"]["masked"]["n"] == 24
