"""``holdfast shield steal``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from holdfast.cli import main
from holdfast.models import build_architecture, save
from tests.unit.shielding.theft.victims import case


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("models") / "victim"
    save(case().net, folder)
    return str(folder)


def test_placements_are_attacked_and_the_result_is_one_json_object(
    victim: str, capsys: pytest.CaptureFixture[str]
) -> None:
    modes = ["--mode", "whole", "--mode", "tsqp", "--mode", "none"]
    arguments = ["shield", "steal", victim, "--data", "digits", *modes, "--budget", "0,16", "--steps", "20", "--json"]
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert found["modes"].keys() == {"whole", "tsqp", "none"}
    points = {mode: curve["points"] for mode, curve in found["modes"].items()}
    assert [point["budget"] for point in points["tsqp"]] == [0, 16]
    assert float(points["none"][0]["fidelity"]["value"]) > 0.97
    assert float(points["tsqp"][0]["fidelity"]["value"]) > float(points["whole"][0]["fidelity"]["value"]) + 0.3
    assert found["modes"]["none"]["hidden"] == 0
    assert "same answer as the victim" in err
    assert "more than whole" in err
    lead = next(line for line in err.splitlines() if line.startswith("tsqp") and " 0 " in line).split("  ")[-1]
    shares = [float(points[mode][0]["fidelity"]["value"]) for mode in ("tsqp", "whole")]
    assert float(lead.split("%")[0]) == pytest.approx(100 * (shares[0] - shares[1]), abs=0.06)


def test_a_fine_tuned_model_has_no_public_backbone(
    victim: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(build_architecture("digits-cnn:channels=8", seed=5), tmp_path / "other")
    more = ["--mode", "private-adapters", "--public", str(tmp_path / "other")]
    assert main(["shield", "steal", victim, "--data", "digits", *more]) == 2
    assert "no layer of the public model unchanged" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--mode", "tsqp", "--budget", "10,5"], "increasing numbers"),
        (["--mode", "tsqp", "--budget", "100000"], "need as many images"),
        (["--mode", "private-adapters"], "name it with --public"),
        (["--mode", "slolam"], "did you mean slalom"),
        ([], "--mode"),
    ],
)
def test_a_wrong_call_is_one_clear_error(
    victim: str, more: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["shield", "steal", victim, "--data", "digits", *more]) == 2
    assert message in capsys.readouterr().err
