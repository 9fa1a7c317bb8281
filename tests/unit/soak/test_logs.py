"""Logs of the format of real experiments, written here from its description."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest

from holdfast.errors import UnreadableArtifact
from holdfast.soak.analysis import analyse
from holdfast.soak.log_lines import Line, Unread, begin_line, file_name, iteration_line, parse_line, sdc_line
from holdfast.soak.logs import read_log

NAME = "2023_12_03_14_05_09_PyTorch-vit_base_ECC_OFF_carol.log"
HEADER = (
    "#HEADER framework:PyTorch torch_version:2.0.1 timm_version:0.9.12 GPU:Quadro goal:classify topk:1 "
    "float_threshold:0.001 dataset:imagenet  iterations=1000000000000 testsamples=40 generate=False "
    "disableconsolelog=True goldpath=data/vit_base_torch_compile_False_hardening_None.pt checkpointdir=None "
    "model=vit_base batchsize=4 usetorchcompile=False hardenedid=False"
)
CRITICAL = "#ERR critical batch:3 imgid:1  i:0 g:217 o:12 gt:217"
IMAGE = "#ERR batch:3 imgid:1  output_t nan:0 inf:0 min:-1.5 max:9.1 diff_t nan:0 inf:0 min:-3.0 max:4.0"
LINES = [
    HEADER,
    "#BEGIN Y:2023 M:12 D:03 Time:14:05:09",
    "#IT 0 KerTime:0.5000000 AccTime:0.5000000",
    "#IT 10 KerTime:0.5000000 AccTime:5.5000000",
    CRITICAL,
    IMAGE,
    "#SDC Ite:14 KerTime:0.5000000 AccTime:7.0000000 KerErr:2 AccErr:2",
    "#IT 20 KerTime:0.5000000 AccTime:10.5000000",
    "#IT 30 KerTime:0.5000000 AccTime:15.5000000",
    "#END",
]


def written(folder: Path, lines: list[str], name: str = NAME) -> Path:
    path = folder / name
    path.write_bytes("\n".join(lines).encode() + b"\n")
    return path


def supervised(lines: list[str], ending: str) -> list[str]:
    """The supervisor's file: its own head, a time before every line, its own end."""
    stamped = [f"2023-12-03 14:05:{9 + 2 * k:02}.125 {line}" for k, line in enumerate(lines)]
    head = ["#SERVER_HEADER cuda_job", "#SERVER_BEGIN Y:2023 M:12 D:3 TIME:14:5:9-125000"]
    return [*head, *stamped, f"{ending} TIME:2023-12-03-14-06-40"]


def test_exposure_runs_to_the_last_timed_line_and_not_to_the_last_sdc(tmp_path: Path):
    log = read_log(written(tmp_path, LINES))
    assert (log.seconds, log.iterations, log.ending) == (15.5, 31, "end")  # the SDC came at 7 s
    assert log.unseen == pytest.approx(10 * 0.5)  # up to ten more iterations, then an #IT would stand there
    [event] = log.corruptions
    assert (event.iteration, event.seconds, event.errors) == (14, 7.0, 2)
    assert event.critical
    assert not event.nonfinite
    assert (log.subject, log.arm) == ("vit_base, ECC OFF, carol", "base")
    assert not log.unread


def test_a_log_without_any_event_is_exposure_all_the_same(tmp_path: Path):
    log = read_log(written(tmp_path, [line for line in LINES if line[:4] not in ("#ERR", "#SDC")]))
    assert (log.seconds, log.counts.sdc) == (15.5, 0)


def test_after_an_sdc_the_next_iteration_line_bounds_what_is_unseen(tmp_path: Path):
    log = read_log(written(tmp_path, [*LINES[:7], "#END"]))
    assert log.seconds == 7.0
    assert log.unseen == pytest.approx((20 + 1 - 14) * 0.5)  # #IT 20 comes after 21 iterations


def test_the_supervisors_file_reads_the_same_and_its_times_narrow_what_is_unseen(tmp_path: Path):
    local, remote = read_log(written(tmp_path, LINES)), read_log(written(tmp_path, supervised(LINES, "#SERVER_END")))
    assert remote.seconds == local.seconds
    assert remote.corruptions == local.corruptions
    assert remote.unseen == pytest.approx(2.0)  # its #END came two seconds after the last #IT


def test_datagrams_as_captured_tell_the_ecc_state(tmp_path: Path):
    path = tmp_path / "capture.bin"
    path.write_bytes(b"".join(b"\x0e" + line.encode() + b"\n" for line in LINES))
    log = read_log(path)
    assert log.ecc is True
    assert (log.seconds, len(log.corruptions)) == (15.5, 1)


def test_windows_line_ends_are_no_ecc_byte(tmp_path: Path):
    path = tmp_path / "x.log"
    path.write_bytes("\r\n".join(LINES).encode())
    assert read_log(path).ecc is None
    assert read_log(path).seconds == 15.5


@pytest.mark.parametrize("what", ["soft APP reboot", "soft OS reboot", "power cycle"])
def test_what_the_supervisor_had_to_restart_is_a_due(tmp_path: Path, what: str):
    log = read_log(written(tmp_path, supervised(LINES[:-1], f"#SERVER_DUE:{what}")))
    assert (log.dues, log.ending, log.counts.due) == ((what,), "due", 1)
    assert log.seconds == 15.5
    assert log.unseen == pytest.approx(5.0)  # the time that it hung is no exposure


def test_a_restart_after_the_programs_own_abort_is_no_due(tmp_path: Path):
    lines = [*LINES[:7], "#ABORT amount of errors equals of the last iteration", "#END"]
    log = read_log(written(tmp_path, supervised([*lines, "#INF SETUP_ERROR:abort"], "#SERVER_DUE:soft APP reboot")))
    assert (log.aborts, log.restarts, log.counts.due) == (1, 1, 0)


def test_an_exception_is_a_due_and_a_file_that_just_stops_is_said_to(tmp_path: Path):
    assert read_log(written(tmp_path, [*LINES[:5], "#INF SETUP_ERROR:CUDA error"])).counts.due == 1
    assert read_log(written(tmp_path, LINES[:5])).ending == "cut"


def test_nan_is_told_apart(tmp_path: Path):
    lines = [line.replace("output_t nan:0", "output_t nan:1") for line in LINES]
    assert read_log(written(tmp_path, lines)).counts.nonfinite == 1


def test_two_lives_in_one_file_add_up(tmp_path: Path):
    log = read_log(written(tmp_path, LINES[:-1] + LINES))
    assert (log.seconds, log.iterations, len(log.corruptions)) == (31.0, 62, 2)
    assert log.corruptions[1].seconds == 15.5 + 7.0
    assert log.counts.episodes == 1  # the same wrong numbers twice


def test_damage_is_named_and_the_rest_is_read(tmp_path: Path):
    lines = [*LINES[:4], "#SDC Ite:14 KerTi", "\x00\x7fgarbage", "#WHAT is this", *LINES[4:]]
    log = read_log(written(tmp_path, lines))
    assert [(item.number, item.why) for item in log.unread] == [
        (5, "an incomplete #SDC"),
        (6, "no line of this format"),
        (7, "no line of this format"),
    ]
    assert (log.seconds, len(log.corruptions)) == (15.5, 1)


def test_errors_whose_lines_got_lost_are_counted(tmp_path: Path):
    lines = [line.replace("AccErr:2", "AccErr:5") for line in LINES]
    assert read_log(written(tmp_path, lines)).lost == 3


def test_a_layers_log_is_named_by_its_golden_file_and_not_by_a_default(tmp_path: Path):
    gold = "id_3_name_blocks.0.attn_class_Attention_params_4198400_output_size_1052672.pt"
    header = HEADER.replace("data/vit_base_torch_compile_False_hardening_None.pt", gold)
    header = header.replace("model=vit_base", "model=resnet50d")
    assert read_log(written(tmp_path, [header, *LINES[1:]])).subject.startswith("blocks.0.attn,")


def test_the_golden_file_tells_whether_the_model_is_hardened(tmp_path: Path):
    header = HEADER.replace("hardening_None", "hardening_hardenedid")  # the flag is False at test time
    assert read_log(written(tmp_path, [header, *LINES[1:]])).arm == "hardened"


def test_what_is_no_log_is_refused(tmp_path: Path):
    with pytest.raises(UnreadableArtifact, match="neither #HEADER nor #BEGIN"):
        read_log(written(tmp_path, ["hello", "#IT 0 KerTime:1 AccTime:1"]))


def test_lines_written_here_read_back():
    now = datetime(2026, 11, 21, 3, 4, 5)
    assert file_name(now, "holdfast-gemm", False, "box") == "2026_11_21_03_04_05_holdfast-gemm_ECC_OFF_box.log"
    assert begin_line(now) == "#BEGIN Y:2026 M:11 D:21 Time:03:04:05"
    line = parse_line(sdc_line(14, 0.5, 7.0, 2, 2).encode())
    assert isinstance(line, Line)
    assert (line.iteration, line.kernel_seconds, line.total_seconds) == (14, 0.5, 7.0)
    assert sdc_line(14, 0.5, 7.0, 2, 2) == LINES[6]
    assert iteration_line(10, 0.5, 5.5) == LINES[3]
    assert isinstance(parse_line(b"#IT x KerTime:1 AccTime:1"), Unread)
    assert parse_line(b"\x0d") is None


def test_sessions_of_one_arm_are_held_against_each_other(tmp_path: Path):
    quiet = [written(tmp_path, LINES, NAME.replace("05_09", f"{k:02}_00")) for k in range(12)]
    burst = [*LINES[:4]]
    for ite in range(40):  # one weight gone wrong: the same numbers forty times
        burst += [IMAGE, sdc_line(11 + ite, 0.1, 5.6 + 0.1 * ite, 1, 1 + ite)]
    stuck = written(tmp_path, [*burst, "#END"], NAME.replace("05_09", "30_00"))
    logs = [read_log(path) for path in (*quiet, stuck)]
    found = analyse([log.counts for log in logs])
    [arm] = found.arms
    assert (arm.sessions, arm.sdc.events, arm.episodes) == (13, 52, 13)
    [spread] = found.spreads
    assert spread.test.basis == "logs"
    assert spread.over
    low, high = found.wider(spread)
    assert low < arm.sdc.low < arm.sdc.high < high
    steady = analyse([log.counts for log in logs[:-1]])
    assert not steady.spreads[0].over


def test_a_crash_and_the_restart_that_it_needs_are_one_due(tmp_path: Path):
    lines = supervised([*LINES[:5], "#INF SETUP_ERROR:CUDA error"], "#SERVER_DUE:soft APP reboot")
    log = read_log(written(tmp_path, lines))
    assert (log.counts.due, log.crashes, log.restarts) == (1, 1, 1)


def test_a_header_may_tell_how_often_iterations_are_logged(tmp_path: Path):
    log = read_log(written(tmp_path, [f"{HEADER} iterationinterval=1000", *LINES[1:3]]))
    assert log.unseen == pytest.approx(1000 * 0.5)
