"""Whatever the files are, one record comes out; and the table of a published beam run does."""

from __future__ import annotations

import csv
import json
import math
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from holdfast.cli import main
from holdfast.errors import UnreadableArtifact, UsageError
from holdfast.evidence.record import Record
from holdfast.seeds import derive
from holdfast.soak import import_logs
from holdfast.soak.counts import Counts, published, read_counts
from holdfast.soak.log_lines import file_name, iteration_line, sdc_line
from holdfast.soak.nvbitfi import Kind, read_results

ROWS = """\
1;_Z4gemmPf;0;26605491;0.5068;0.5602:0x90:FFMA:773546:0x20000:0.759537:3::value_before0x0:value_after0x20000
2;void at::native::k<float, 4>(int);3;17;0.1;0.2:0xa0:HMMA:17:0x10:1.5:17:[1.0] NVRM- Xid 13; more: of it:v
3;_Z4gemmPf;0;99;0.1;0.2::::-1:2.0:4::
4;_Z4gemmPf;0;98;0.1;0.2:0x90:MOV:1:0x1:0.5:13:xid:v
5;_Z4gemmPf;0;97;0.1;0.2::::-1:0.5:19::
"""


def results(folder: Path, text: str = ROWS) -> Path:
    path = folder / "results-modeinst_value-igid7.bfm0.1000.txt"
    path.write_text(text)
    return path


def test_nvbitfi_rows_are_read_whole(tmp_path: Path):
    rows, unread = read_results(results(tmp_path, ROWS + "6;half a row\n\n7;k;0;1;0.1;0.2:0x0:MOV:1:0x1:0.5:20::\n"))
    assert [str(row.kind) for row in rows] == ["masked", "sdc", "due", "potential-due", "not-injected"]
    assert (rows[0].opcode, rows[0].mask, rows[0].seconds) == ("FFMA", "0x20000", 0.759537)
    assert rows[0].values == "value_before0x0:value_after0x20000"
    assert rows[1].kernel == "void at::native::k<float, 4>(int)"
    assert (rows[1].group, rows[1].model) == ("gp", "FLIP_SINGLE_BIT")
    assert [item.number for item in unread] == [6, 8]


def test_runs_that_injected_nothing_are_no_trials(tmp_path: Path):
    found = import_logs([results(tmp_path)])
    assert found.record.kind == "injection-results"
    assert found.record.measured["sdc"].n == 4
    assert found.record.measured["due-or-potential"].value == 0.5
    assert found.record.facts["counts"][Kind.NOT_INJECTED] == 1
    assert any("injected nothing" in note for note in found.notes)
    assert Record.from_bytes(found.record.to_bytes()) == found.record


def log_of(folder: Path, number: int, arm: str, events: list[tuple[float, bool]], seconds: float) -> Path:
    """Write one log of ``seconds`` at 10 ms an iteration with an SDC at each of ``events`` (second, critical)."""
    hard = "hardenedid" if arm == "hardened" else "None"
    lines = [
        f"#HEADER framework:PyTorch goldpath=net_torch_compile_False_hardening_{hard}.pt model=net hardenedid=False"
    ]
    marks = [(t, "it", False) for t in [k * 1.0 for k in range(1, int(seconds) + 1)]]
    marks += [(t, "sdc", critical) for t, critical in events]
    for errors, (t, kind, critical) in enumerate(sorted(marks)):
        ite = round(t * 100)
        if kind == "it":
            lines.append(iteration_line(ite, 0.01, t))
            continue
        if critical:
            lines.append(f"#ERR critical batch:0 imgid:{errors}  i:0 g:1 o:2 gt:1")
        lines.append(f"#ERR batch:0 imgid:{errors}  output_t nan:0 inf:0 min:0 max:{t} diff_t nan:0 inf:0 min:0 max:1")
        lines.append(sdc_line(ite, 0.01, t, 1, errors))
    began = datetime(2023, 12, 1) + timedelta(hours=number)
    path = folder / file_name(began, "PyTorch-net", False, "carol")
    path.write_text("\n".join([*lines, "#END", ""]))
    return path


def test_the_last_sdc_as_exposure_inflates_a_quiet_arm_and_ours_does_not(tmp_path: Path):
    """Defect of the published parsers: with one event a log expected, their rate is 2.72 times too high."""
    generator = derive(3, "logs").numpy()
    last, total = 0.0, 0
    for number in range(300):
        times = sorted(generator.uniform(0, 10, size=generator.poisson(1.0)))
        log_of(tmp_path, number, "base", [(float(t), False) for t in times], 10.0)
        last, total = last + (float(times[-1]) if len(times) else 0.0), total + len(times)
    found = import_logs([tmp_path])
    [arm] = found.analysis.arms
    assert arm.sdc.events == total
    assert arm.seconds == pytest.approx(3000, rel=0.01)
    assert arm.sdc.low < 0.1 < arm.sdc.high  # the truth
    assert total / last / 0.1 == pytest.approx(1 / (1 - (1 - math.exp(-1))), rel=0.15)  # what the others would say
    assert not [spread for spread in found.analysis.spreads if spread.over]


def test_logs_with_the_counts_of_a_published_row_give_its_numbers(tmp_path: Path):
    """SwinV2's row of December 2023, as logs: 9 SDC, 2 critical in 1761 s against 35 and 13 in 1951 s."""
    for number, (arm, seconds, sdc, critical) in enumerate([("base", 1761, 9, 2), ("hardened", 1951, 35, 13)]):
        events = [((k + 0.505) * seconds / sdc, k < critical) for k in range(sdc)]
        log_of(tmp_path, number, arm, events, float(seconds))
    found = import_logs([tmp_path])
    rates = {arm.arm: arm for arm in found.analysis.arms}
    assert (rates["base"].critical.events, rates["hardened"].critical.events) == (2, 13)
    assert rates["hardened"].seconds == pytest.approx(1951, abs=0.1)
    [pair] = found.analysis.pairs
    assert pair.critical.p == pytest.approx(0.0085, abs=2e-4)
    assert pair.verdict == "worse"


def test_the_record_of_the_published_table_reads_back():
    found = import_logs(["published:december-2023"])
    assert Record.from_bytes(found.record.to_bytes()) == found.record
    assert found.record.facts["sources"] == [read_counts(published("december-2023")).source]
    rate = found.record.measured["critical@EVA02-L 448@hardened"]
    assert (rate.value, rate.low, rate.n) == (0.0, 0.0, 0)
    assert rate.high == pytest.approx(7.4e-4, rel=0.01)
    assert "nobody counted DUE in these tables" in found.notes


def test_a_flux_gives_fit_with_its_interval():
    arm = import_logs(["published:december-2023"], flux=5e6).record.facts["arms"][0]
    value, low, high = arm["failures"]["critical"]["fit"]
    assert value == pytest.approx(283 / 3222 / 5e6 * 13e9)
    assert low < value < high


def test_a_fluence_belongs_to_one_arm(tmp_path: Path):
    log_of(tmp_path, 0, "base", [(5.0, True)], 10.0)
    arm = import_logs([tmp_path], fluence=1e9).record.facts["arms"][0]
    assert arm["failures"]["sdc"]["cross_section_cm2"][0] == pytest.approx(1e-9, rel=0.01)
    with pytest.raises(UsageError, match="one arm"):
        import_logs(["published:december-2023"], fluence=1e9)


def test_what_does_not_go_together_is_refused(tmp_path: Path):
    results(tmp_path)
    log_of(tmp_path, 0, "base", [], 10.0)
    with pytest.raises(UsageError, match="shares"):
        import_logs([tmp_path])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UnreadableArtifact, match="no log"):
        import_logs([tmp_path / "empty"])
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(UnreadableArtifact, match="neither"):
        import_logs([tmp_path / "notes.txt"])


def test_the_command_shows_the_table_and_flags(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["logs", "import", "published:december-2023", "-o", str(tmp_path / "out"), "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["kind"] == "event-rates"
    flat = " ".join(said.err.split())
    assert "SwinV2-L 12to16 256 hardened +486.7%" in flat
    assert flat.count("SIGNIFICANTLY WORSE") == 1
    assert "over-dispersed: ViT-L/14 224: the SDC rate varies 194.7 times more than Poisson" in flat
    assert "pooled, hardened: critical -92.0% [-95.3%, -87.4%]" in flat
    assert "pooled without ViT-L/14 224: -51.5%" in flat
    rows = list(csv.DictReader((tmp_path / "out" / "arms.csv").open()))
    assert [row["critical"] for row in rows][:2] == ["283", "3"]


def test_rows_go_to_parquet(tmp_path: Path):
    parquet = pytest.importorskip("pyarrow.parquet")
    log_of(tmp_path, 0, "base", [(5.0, True)], 10.0)
    assert main(["logs", "import", str(tmp_path), "-o", str(tmp_path / "out"), "--format", "parquet"]) == 0
    [row] = parquet.read_table(tmp_path / "out" / "rows.parquet").to_pylist()
    assert (row["subject"], row["seconds"], row["critical"]) == ("net, ECC OFF, carol", 5.0, True)
    assert parquet.read_table(tmp_path / "out" / "arms.parquet").num_rows == 1


def test_a_supervisors_copy_of_a_run_counts_once(tmp_path: Path):
    path = log_of(tmp_path, 0, "base", [(5.0, True)], 10.0)
    lines = ["#BEGIN Y:2023 M:12 D:01 Time:00:00:00", *path.read_text().splitlines()]
    path.write_text("\n".join(lines[:-1]))
    stamped = [f"2023-12-01 00:00:{k:02}.000 {line}" for k, line in enumerate(lines[:-1])]
    copy = path.with_name(path.name.replace("00_00_00", "00_00_01"))
    copy.write_text("\n".join(["#SERVER_HEADER x", *stamped, "#SERVER_DUE:power cycle TIME:2023-12-01-00-01-00"]))
    found = import_logs([tmp_path])
    [arm] = found.analysis.arms
    assert (arm.sessions, arm.sdc.events, arm.due.events) == (1, 1, 1)  # the one that knows of the DUE
    assert any("supervisor's copy" in note for note in found.notes)


def beam_log(folder: Path, row: Counts, events: list[tuple[int, str, bool]]) -> None:
    """Write ``row`` as one log of a beam run: an #IT line each 10 s, an #SDC for each of (second, image, critical)."""
    hard = "hardenedid" if row.arm == "hardened" else "None"
    model = "_".join(row.subject.split()).replace("/", "-")
    lines = [f"#HEADER framework:PyTorch goldpath={model}_torch_compile_False_hardening_{hard}.pt model={model}"]
    ticks = [(10.0 * k, None, False) for k in range(1, int(row.seconds) // 10 + 1)]
    marks = sorted([*ticks, *((float(t), image, critical) for t, image, critical in events)], key=lambda mark: mark[0])
    for errors, (t, image, critical) in enumerate(marks):
        if image is None:
            lines.append(iteration_line(int(t), 1.0, t))
            continue
        if critical:
            lines.append(f"#ERR critical batch:0 imgid:{image}  i:0 g:1 o:2 gt:1")
        lines.append(f"#ERR batch:0 imgid:{image}  output_t nan:0 inf:0 min:0 max:1")
        lines.append(sdc_line(int(t), 1.0, t, 1, errors))
    lines += [iteration_line(int(row.seconds), 1.0, row.seconds), "#END", ""]
    number = len(list(folder.glob("*.log")))
    path = folder / file_name(datetime(2023, 12, 1) + timedelta(hours=number), f"PyTorch-{model}", False, "carol")
    path.write_text("\n".join(lines))


def test_logs_with_the_counts_of_december_2023_give_its_table(tmp_path: Path):
    for row in read_counts(published("december-2023")).rows:
        times = [round((k + 0.5) * row.seconds / row.sdc) for k in range(row.sdc)]
        beam_log(tmp_path, row, [(t, str(k), k < row.critical) for k, t in enumerate(times)])
    found = import_logs([tmp_path]).analysis
    assert {pair.subject for pair in found.pairs if pair.verdict == "worse"} == {"SwinV2-L_12to16_256, ECC OFF, carol"}
    pools = {pool.without: pool.change.value for pool in found.pools}
    assert pools[""] == pytest.approx(-0.920, abs=5e-4)
    assert pools["ViT-L-14_224, ECC OFF, carol"] == pytest.approx(-0.515, abs=1e-3)
    worst = max(found.spreads, key=lambda spread: spread.test.index)
    assert (worst.subject, worst.test.basis) == ("ViT-L-14_224, ECC OFF, carol", "arms")
    assert worst.test.index == pytest.approx(194.7, abs=0.3)


def test_with_logs_an_episode_shows_without_any_assumption_about_hardening(tmp_path: Path):
    """ViT-L's 343 events in six sessions, 283 of them one corruption that stayed: no second arm is needed."""
    for session in range(6):
        row = Counts(subject="ViT-L/14 224", arm="base", seconds=537.0, sdc=0, critical=0)
        events = [(50 * k + session, f"{session}-{k}", False) for k in range(10)]
        if session == 3:
            events += [(100 + k, "stuck", True) for k in range(283)]
        beam_log(tmp_path, row, events)
    found = import_logs([tmp_path]).analysis
    [spread] = found.spreads
    assert spread.over
    assert spread.test.basis == "logs"
    [arm] = found.arms
    assert (arm.sdc.events, arm.critical.events) == (343, 283)
    assert arm.episodes < 70
