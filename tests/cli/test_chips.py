"""``holdfast campaign`` over chips: the table, the record, and one clear sentence for every contradiction."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from holdfast.cli import main
from holdfast.models import build_architecture, save
from holdfast.quantization import quantize

CALL = ["campaign", "m", "--data", "digits", "-o", "run"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    model = build_architecture("digits-cnn:channels=8")
    save(quantize(model, "rquant8"), tmp_path / "m")
    save(quantize(model, "int8"), tmp_path / "other")
    return tmp_path


def test_rates_comparison_and_resumption(capsys: pytest.CaptureFixture[str]) -> None:
    call = [*CALL, "--rates", "0.1%,0.05", "--chips", "3", "--compare", "other", "--json"]
    assert main(call) == 0
    seen = capsys.readouterr()
    record = json.loads(seen.out)
    assert record["kind"] == "robust-error"
    assert set(record["facts"]["points"]) == {"p=0.001", "p=0.05"}
    assert record["measured"]["robust-error@p=0.05"]["n"] == 3
    assert json.loads(Path("run/robust-error.json").read_text()) == record
    line = next(line for line in seen.err.splitlines() if line.startswith("p=0.05 "))
    assert f"{record['measured']['robust-error@p=0.05']['value']:.2%}" in line
    assert "on the same chips" in seen.err
    assert "vacuous" in seen.err
    assert main(call) == 0
    assert json.loads(capsys.readouterr().out) == record


def test_both_names_of_the_cpu_ask_the_same_question(capsys: pytest.CaptureFixture[str]) -> None:
    call = [*CALL, "--rates", "0.05", "--chips", "2", "--images", "32", "--json"]
    assert main(call) == main([*call, "--device", "cpu:0"]) == 0
    one, other = capsys.readouterr().out.splitlines()
    assert one == other
    assert "device" not in json.loads(one)["procedure"]


def test_sensitivity_lists_the_worst_group_first(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*CALL, "--by", "bit", "--fault", "bit-errors:rate=0.05", "--chips", "2", "--json"]) == 0
    seen = capsys.readouterr()
    increases = {k: v["value"] for k, v in json.loads(seen.out)["measured"].items() if k.startswith("increase")}
    assert set(increases) == {f"increase[fixed-point-8 bit {bit}]" for bit in range(8)}
    rows = [line.split("  ")[0] for line in seen.err.splitlines() if " bit " in line and "group" not in line]
    worst = max(increases.values())
    assert increases[f"increase[{rows[0]}]"] == worst


def test_until_a_half_width(capsys: pytest.CaptureFixture[str]) -> None:
    call = [*CALL, "--fault", "bit-errors:rate=0", "--half-width", "10%", "--json"]
    assert main(call) == 0
    item = json.loads(capsys.readouterr().out)["measured"]["robust-error-anytime@p=0"]
    assert item["high"] - item["low"] <= 0.2
    assert item["n"] > 10


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--rates", "2"], "between 0 and 1, not 2"),
        (["--rates", "-0.1"], "between 0 and 1"),
        (["--rates", "one"], "'one' is no number"),
        (["--chips", "3", "--trials", "3"], "--chips and --trials contradict"),
        (["--half-width", "0.1", "--margin", "0.1"], "contradict"),
        (["--by", "site", "--rates", "0.1"], "--by and --rates contradict"),
        (["--by", "site", "--compare", "other", "--fault", "bit-errors:rate=0.1"], "--by and --compare contradict"),
        (["--images", "5", "--trials", "3"], "--images and --trials contradict"),
        (["--images", "5", "--data", "text:words"], "--images takes images"),
        (["--by", "layer", "--fault", "bit-errors:rate=0.1"], "unknown division"),
        (["--chips", "3"], "needs rate"),
        (["--trials", "3", "--fault", "bit-errors"], "needs rate"),
        (["--chips", "3", "--fault", "bit-errors:rate=1.5"], "between 0 and 1"),
        (["--chips", "3"], "give --rates 0.1%,1%"),
        (["--half-width", "10%", "--max-chips", "5"], "--half-width begins with 10 chips"),
        (["--half-width", "50", "--fault", "bit-errors:rate=0.1"], "half-width"),
        (["--rates", "0.1", "--fault", "bit-flip"], "has no rate"),
        (["--rates", "0.1", "--at", "weights:nothing*"], "no site matches"),
    ],
)
def test_contradictions(options: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*CALL, *options]) == 2
    error = capsys.readouterr().err
    assert text in error
    assert "Traceback" not in error


def test_a_refused_campaign_leaves_no_empty_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["campaign", "m", "--data", "digits", "-o", "run", "--fault", "bit-errors:rate=2", "--chips", "2"]) == 2
    assert main([*CALL, "--fault", "no-such-law", "--rates", "1%"]) == 2
    assert not Path("run").exists()
    capsys.readouterr()


def test_a_device_that_is_not_here_is_one_clear_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["campaign", "m", "--data", "digits", "--chips", "2", "--device", "cuda:77", "-o", "run"]) == 3
    assert "there is no device 'cuda:77' here" in capsys.readouterr().err
    assert not Path("run").exists()


def test_a_folder_of_other_chips_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*CALL, "--rates", "0.01", "--chips", "2"]) == 0
    assert main([*CALL, "--rates", "0.01", "--chips", "2", "--seed", "5"]) == 2
    assert "differ in seed" in capsys.readouterr().err


def test_a_sweep_behind_a_code(capsys: pytest.CaptureFixture[str]) -> None:
    fault = "protected:by=secded,fault=bit-errors"
    assert main([*CALL, "--fault", fault, "--rates", "0.1%,1%", "--chips", "2", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert set(record["facts"]["points"]) == {"p=0.001", "p=0.01"}
    bare = [sum(record["facts"]["points"][label]["flips"]) for label in ("p=0.001", "p=0.01")]
    assert bare[0] < bare[1]


def test_a_smaller_question_replaces_no_record(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*CALL, "--rates", "0.1%,1%", "--chips", "3", "--compare", "other"]) == 0
    before = Path("run/robust-error.json").read_bytes()
    capsys.readouterr()
    for options, text in (
        (["--chips", "2", "--rates", "1%"], "rates (0.001 and 0.01 there, 0.01 here)"),
        (["--chips", "2", "--rates", "0.1%,1%", "--compare", "other"], "chips (3 there, 2 here)"),
        (["--chips", "3", "--rates", "0.1%,1%"], "the other model"),
        (["--chips", "3", "--rates", "0.1%,1%", "--compare", "other", "--images", "9"], "images (none there, 9 here)"),
        (["--chips", "3", "--rates", "0.1%,1%", "--compare", "other", "--confidence", "0.9"], "confidence"),
    ):
        assert main([*CALL, *options]) == 2
        error = capsys.readouterr().err
        assert text in error
        assert "another -o" in error
    assert Path("run/robust-error.json").read_bytes() == before
    assert main([*CALL, "--rates", "0.1%,1%", "--chips", "4", "--compare", "other", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["measured"]["robust-error@p=0.01"]["n"] == 4


def test_only_the_first_images(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*CALL, "--rates", "0.01", "--chips", "2", "--images", "7", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["procedure"]["images"] == 7
    assert record["measured"]["error"]["n"] == 7


def test_the_table_is_narrow_and_says_vacuous_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*CALL, "--rates", "0.1%,1%", "--chips", "3", "--compare", "other", "--json"]) == 0
    seen = capsys.readouterr()
    flips = json.loads(seen.out)["facts"]["points"]["p=0.01"]["flips"]
    lines = seen.err.splitlines()
    assert next(line for line in lines if line.startswith("p=0.01 ")).split()[2] == f"{sum(flips) / 3:,.1f}"
    start = next(place for place, line in enumerate(lines) if line.startswith("clean error"))
    assert max(map(len, lines[start:])) <= 100
    assert sum("vacuous" in line for line in lines) == 2


def test_a_law_without_randomness_is_one_chip_and_guarantees_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    path = Path("a/folder/with/quite/a/long/name/attack.json")
    path.parent.mkdir(parents=True)
    attack = ["attack", "m", "--data", "digits", "--budget", "1", "--random-draws", "0", "-o", str(path)]
    assert main(attack) == 0
    fault = f"fixed-flips:path={path}"
    assert main([*CALL, "--fault", fault, "--chips", "4", "--json"]) == 0
    seen = capsys.readouterr()
    record = json.loads(seen.out)
    item, facts = record["measured"][f"robust-error@{fault}"], record["facts"]["points"][fault]
    assert (item["low"], item["high"], item["n"]) == (0.0, 1.0, 1)
    assert facts["guarantee"] is None
    assert not facts["random"]
    assert "no randomness" in seen.err
    assert "n/a" in seen.err
    assert "vacuous" not in seen.err
    rows = [line for line in seen.err.splitlines() if line.startswith("fixed-flip")]
    assert max(map(len, rows)) <= 110
    assert all("…" in row for row in rows)


def test_equal_chips_have_no_interval(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*CALL, "--fault", "bit-errors:rate=0", "--chips", "2", "--json"]) == 0
    seen = capsys.readouterr()
    item = json.loads(seen.out)["measured"]["robust-error@p=0"]
    assert item["high"] - item["low"] > 0.9
    row = next(line for line in seen.err.splitlines() if line.startswith("p=0 "))
    assert row.split()[4] == "n/a"
    assert "all 2 chips gave the same error" in seen.err


def test_equal_groups_and_pairs_have_none_either(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*CALL, "--fault", "bit-errors:rate=0", "--chips", "2", "--by", "field"]) == 0
    assert "+0.00   n/a" in capsys.readouterr().err
    assert main([*CALL, "--fault", "bit-errors:rate=0", "--chips", "2", "--compare", "other"]) == 0
    assert "+0.00 points n/a" in capsys.readouterr().err


def test_a_model_that_guesses_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*CALL, "--rates", "0.01", "--chips", "2", "--json"]) == 0
    seen = capsys.readouterr()
    (warning,) = json.loads(seen.out)["facts"]["warnings"]
    assert "no better than guessing" in warning
    assert f"warning: {warning}" in seen.err.splitlines()
