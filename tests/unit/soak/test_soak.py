"""The golden loop on this machine: what is broken on purpose is found, told apart, attributed and mended."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch
from torch import nn

from holdfast.data import dataset
from holdfast.errors import DigestMismatch, InvalidConfig, MissingDevice, TrialError, UnknownName, UsageError
from holdfast.evidence.record import Record
from holdfast.execution.injection import applied
from holdfast.models import build_architecture, select
from holdfast.quantization.quantize import quantize
from holdfast.soak.benches import Bench
from holdfast.soak.devices import usable_cores
from holdfast.soak.logs import read_log
from holdfast.soak.run import Soak, SoakReport, soak
from holdfast.soak.triage import describe_difference

DATA = dataset("digits")
CORE = f"cpu:{usable_cores()[0]}"


def net() -> nn.Module:
    return build_architecture("digits-cnn:channels=4", seed=0)


def run(out: Path, disturb: Callable[[Bench, int], None] | None = None, **how: object) -> SoakReport:
    """Soak a small net for thirty iterations on one core."""
    settings = {"devices": CORE, "iterations": 30, "samples": 8, "patience": 5.0, **how}
    return soak(Soak(**settings), out=out, model=net(), data=DATA, name="digits", disturb=disturb)


def events(report: SoakReport, kind: str) -> list[dict[str, object]]:
    lines = (report.logs / "events.jsonl").read_text().splitlines()
    return [item for item in map(json.loads, lines) if item["kind"] == kind]


def only_log(report: SoakReport) -> Path:
    [path] = report.logs.glob("*.log")
    return path


FOR_GOOD: list[AbstractContextManager[None]] = []  # never left: memory does not heal


def flip(bench: Bench, bit: int = 30) -> None:
    """Flip one bit of the first weight for good, through the machinery of injection."""
    from holdfast.execution import Flips

    site = select(bench.module, "weights:*conv*")[0]
    change = Flips(site, torch.tensor([3]), torch.tensor([1 << bit]))
    FOR_GOOD.append(applied(bench.module, [change]))
    FOR_GOOD[-1].__enter__()


class Once:
    """Calls ``action`` before one iteration, in whichever worker comes there first, and never again."""

    def __init__(self, flag: Path, at: int, action: Callable[[Bench], None]) -> None:
        self.flag, self.at, self.action = flag, at, action

    def __call__(self, bench: Bench, iteration: int) -> None:
        if iteration == self.at and not self.flag.exists():
            self.flag.touch()
            self.action(bench)


def test_a_sound_machine_gives_the_golden_bits_and_a_log_that_says_so(tmp_path: Path):
    report = run(tmp_path)
    assert (report.iterations, report.events) == (30, {})
    log = read_log(only_log(report))
    assert (log.iterations, log.ending, len(log.corruptions)) == (30, "end", 0)
    assert log.seconds > 0
    assert (log.header["model"], log.header["float_threshold"], log.arm) == ("digits", "0", "base")
    assert log.host.endswith(f".cpu{usable_cores()[0]}")
    assert not log.unread
    assert Record.from_bytes((tmp_path / "soak.json").read_bytes()) == report.record
    assert report.record.measured[f"sdc@{log.subject}@base"].value == 0.0


def test_a_flipped_weight_is_found_attributed_and_only_its_tensor_is_put_back(tmp_path: Path):
    report = run(tmp_path / "out", Once(tmp_path / "flag", 7, flip))
    [event] = events(report, "sdc")
    assert event["verdict"] == "stored"
    assert event["device"] == f"cpu{usable_cores()[0]}"
    [incident] = event["incidents"]
    assert "conv" in incident["tensor"]
    assert (incident["bits"], incident["repaired"]) == (1, True)
    assert report.events["reloaded"] == 1
    log = read_log(only_log(report))
    assert [item.iteration for item in log.corruptions] == [8]  # the eighth; those after it are golden again
    assert log.iterations == 30
    assert "#INF triage:stored tensor:" in only_log(report).read_text()


def test_a_fault_that_comes_and_goes_is_transient(tmp_path: Path):
    def glitch(bench: Bench) -> None:
        handle = bench.module.register_forward_hook(lambda module, inputs, output: (handle.remove(), output + 1)[1])

    report = run(tmp_path / "out", Once(tmp_path / "flag", 5, glitch))
    [event] = events(report, "sdc")
    assert (event["verdict"], event["incidents"]) == ("transient", [])


def test_a_fault_that_stays_with_sound_memory_is_persistent(tmp_path: Path):
    def wear_out(bench: Bench) -> None:
        bench.module.register_forward_hook(lambda module, inputs, output: output * 2)

    report = run(tmp_path / "out", Once(tmp_path / "flag", 25, wear_out))
    assert {event["verdict"] for event in events(report, "sdc")} == {"persistent"}
    assert report.events["sdc"] == 5
    assert report.events["critical"] == 0  # twice the logits decide alike


def test_nan_is_told_apart_from_a_wrong_decision(tmp_path: Path):
    def burn(bench: Bench) -> None:
        handle = bench.module.register_forward_hook(
            lambda module, inputs, output: (handle.remove(), output * float("nan"))[1]
        )

    report = run(tmp_path / "out", Once(tmp_path / "flag", 5, burn))
    assert (report.events["nonfinite"], report.events["critical"]) == (1, 0)
    assert read_log(only_log(report)).counts.nonfinite == 1


def test_a_changed_decision_is_logged_with_its_label(tmp_path: Path):
    def swap(bench: Bench) -> None:
        handle = bench.module.register_forward_hook(lambda module, inputs, output: (handle.remove(), -output)[1])

    report = run(tmp_path / "out", Once(tmp_path / "flag", 5, swap))
    assert report.events["critical"] == 1
    text = only_log(report).read_text()
    assert f"gt:{int(DATA.labels[4])}" in text  # the first sample of the second batch
    assert read_log(only_log(report)).counts.critical == 1


def test_a_changed_input_and_a_changed_golden_output_are_told_from_weights(tmp_path: Path):
    def spoil(bench: Bench) -> None:
        bench.inputs[1].view(torch.int32)[0, 0, 0, 0] ^= 1 << 30

    report = run(tmp_path / "out", Once(tmp_path / "flag", 5, spoil))
    [event] = events(report, "sdc")
    assert (event["verdict"], event["incidents"][0]["tensor"]) == ("stored", "input_1")


def test_a_change_that_no_output_shows_is_latent_and_mended(tmp_path: Path):
    def touch_dead(bench: Bench) -> None:
        bench.module.get_buffer("unread").add_(1)

    model = net()
    model.register_buffer("unread", torch.zeros(3))
    how = Soak(devices=CORE, iterations=20, samples=4, audit_every=1e-6)
    report = soak(how, out=tmp_path / "out", model=model, data=DATA, disturb=Once(tmp_path / "flag", 5, touch_dead))
    [event] = events(report, "latent")
    assert event["incidents"][0]["tensor"] == "unread"
    assert (report.events["latent"], report.events["reloaded"], report.events["sdc"]) == (1, 1, 0)


def test_codes_of_a_quantised_model_are_mended_and_decoded_again(tmp_path: Path):
    def hit(bench: Bench) -> None:
        from holdfast.models import card

        lens = next(iter(card(bench.module).lenses.values()))
        lens.codes.view(-1)[0] ^= 64

    model = quantize(net(), "int8")
    how = Soak(devices=CORE, iterations=20, samples=4, audit_every=1e-6)
    report = soak(how, out=tmp_path / "out", model=model, data=DATA, disturb=Once(tmp_path / "flag", 5, hit))
    found = [item for kind in ("sdc", "latent") for event in events(report, kind) for item in event["incidents"]]
    assert found
    assert all(item["repaired"] for item in found)
    assert "#codes" in found[0]["tensor"]


def test_a_killed_worker_is_a_due_and_another_goes_on(tmp_path: Path):
    report = run(tmp_path / "out", Once(tmp_path / "flag", 5, lambda bench: os.kill(os.getpid(), signal.SIGKILL)))
    [event] = events(report, "due")
    assert (event["what"], event["words"], event["bench"]) == ("death", "exit code -9", "digits")
    assert (report.events["due"], report.events["death"]) == (1, 1)
    first, second = sorted((read_log(path) for path in report.logs.glob("*.log")), key=lambda log: log.path.name)
    assert (first.dues, first.ending) == (("soft APP reboot",), "due")
    assert (second.ending, second.iterations) == ("end", 30)
    assert report.analysis.arms[0].due.events == 1


def test_a_hung_worker_is_a_due(tmp_path: Path):
    begun = time.monotonic()
    report = run(tmp_path / "out", Once(tmp_path / "flag", 5, lambda bench: time.sleep(600)), patience=0.5)
    assert time.monotonic() - begun < 60
    [event] = events(report, "due")
    assert event["what"] == "hang"
    assert report.events["due"] == 1
    assert report.analysis.arms[0].due.events == 1


def test_an_exception_is_one_due_and_its_words_are_kept(tmp_path: Path):
    def stumble(bench: Bench) -> None:
        raise RuntimeError("an illegal memory access was encountered")

    report = run(tmp_path / "out", Once(tmp_path / "flag", 5, stumble))
    [event] = events(report, "due")
    assert event["what"] == "crash"
    assert "illegal memory access" in event["words"]
    assert report.analysis.arms[0].due.events == 1  # the exception and the restart it needs are one


def test_a_worker_that_never_lives_is_given_up(tmp_path: Path):
    def die(bench: Bench, iteration: int) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(TrialError, match="3 times"):
        run(tmp_path / "out", die)


def test_the_same_call_goes_on_with_the_same_golden_file(tmp_path: Path):
    run(tmp_path)
    before = (tmp_path / "golden" / "tensors.safetensors").stat().st_mtime_ns
    report = run(tmp_path)
    assert (tmp_path / "golden" / "tensors.safetensors").stat().st_mtime_ns == before
    assert report.analysis.arms[0].sessions == 2


def test_another_model_and_a_changed_golden_file_are_refused(tmp_path: Path):
    run(tmp_path)
    other = build_architecture("digits-cnn:channels=4", seed=1)
    with pytest.raises(InvalidConfig, match="another digits/model/"):
        soak(Soak(devices=CORE, iterations=1, samples=8), out=tmp_path, model=other, data=DATA, name="digits")
    path = tmp_path / "golden" / "tensors.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    with pytest.raises(DigestMismatch):
        run(tmp_path)


def test_a_model_that_is_not_deterministic_is_refused(tmp_path: Path):
    class Dice(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1)[:, :10] * int.from_bytes(os.urandom(3), "big")

    with pytest.raises(InvalidConfig, match="had other bits, the first"):
        soak(Soak(devices=CORE, iterations=1, samples=4), out=tmp_path, model=Dice(), data=DATA)
    assert not (tmp_path / "golden" / "golden.json").exists()


def test_kernels_soak_alone_and_say_which_one_erred(tmp_path: Path):
    def break_norm(bench: Bench, iteration: int) -> None:
        if bench.name == "norm-bf16" and iteration == 1:
            bench.module.norm.weight.data.view(torch.int16)[5] ^= 1 << 13

    how = Soak(devices=CORE, iterations=24)
    report = soak(how, out=tmp_path, kernels=("gemm", "attention", "norm"), disturb=break_norm)
    [event] = events(report, "sdc")
    assert (event["bench"], event["verdict"]) == ("norm-bf16", "stored")
    assert 200 < event["difference"]["elements"] == event["errors"] <= 256  # one column; a few sums round it away
    logs = {read_log(path).subject.split(",")[0] for path in report.logs.glob("*.log")}
    assert logs == {f"{kernel}-{dtype}" for kernel in ("gemm", "attention", "norm") for dtype in ("fp32", "bf16")}


def test_every_line_reaches_the_supervisor(tmp_path: Path):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(("127.0.0.1", 0))
        supervisor.settimeout(5)
        report = run(tmp_path, mirror=f"udp:127.0.0.1:{supervisor.getsockname()[1]}")
        wanted = only_log(report).read_text().splitlines()
        got = [supervisor.recv(2048) for _ in wanted]
    assert [item[1:].decode() for item in got] == wanted
    assert {item[:1] for item in got} <= {b"\x0d", b"\x0e"}


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ({"devices": "cpu:99999"}, MissingDevice, "core 99999"),
        ({"devices": "tpu"}, InvalidConfig, "no device"),
        ({"devices": f"{CORE},{CORE}"}, InvalidConfig, "twice"),
        ({"mirror": "tcp:x"}, UsageError, "no mirror"),
        ({"iterations": None}, InvalidConfig, "hours or for iterations"),
        ({"iterations": 0}, InvalidConfig, "above zero"),
        ({"samples": 0}, InvalidConfig, "nothing to compute"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, how: dict[str, object], error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        run(tmp_path, **how)


def test_an_unknown_kernel_names_the_nearest(tmp_path: Path):
    with pytest.raises(UnknownName) as error:
        soak(Soak(devices=CORE, iterations=1), out=tmp_path, kernels=("gem",))
    assert "gemm" in error.value.hint
    with pytest.raises(InvalidConfig, match="nothing to compute"):
        soak(Soak(devices=CORE, iterations=1), out=tmp_path)


def test_a_golden_output_that_changed_in_memory_is_no_fault_of_the_computation(tmp_path: Path):
    def spoil(bench: Bench) -> None:
        import gc

        from holdfast.soak.golden import Resident

        [resident] = [item for item in gc.get_objects() if isinstance(item, Resident)]
        resident.get_buffer("golden_1").view(torch.int32)[0, 0] ^= 1

    report = run(tmp_path / "out", Once(tmp_path / "flag", 5, spoil))
    [event] = events(report, "sdc")
    assert (event["verdict"], event["incidents"][0]["tensor"]) == ("golden", "golden_1")


def test_nothing_is_mended_from_a_file_that_changed_itself(tmp_path: Path):
    def spoil_both(bench: Bench) -> None:
        path = tmp_path / "out" / "golden" / "tensors.safetensors"
        data = bytearray(path.read_bytes())
        data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
        path.write_bytes(data)
        for tensor in bench.module.parameters():
            tensor.data.view(torch.uint8).view(-1)[0] ^= 1

    with pytest.raises(DigestMismatch, match="no longer holds the golden bytes"):
        run(tmp_path / "out", Once(tmp_path / "flag", 5, spoil_both))
    [log] = (tmp_path / "out" / "logs").glob("*.log")
    assert read_log(log).ending == "unknown"


def test_one_device_may_fail_and_the_others_go_on(tmp_path: Path):
    if len(usable_cores()) < 2:
        pytest.skip("needs two cores")
    bad = usable_cores()[1]

    def die(bench: Bench, iteration: int) -> None:
        if os.sched_getaffinity(0) == {bad}:
            os.kill(os.getpid(), signal.SIGKILL)

    report = run(tmp_path, die, devices=f"{CORE},cpu:{bad}")
    assert report.tallies[f"cpu{bad}"].given_up
    assert report.tallies[f"cpu{bad}"].events["due"] == 3
    assert report.tallies[f"cpu{usable_cores()[0]}"].iterations == 30


def test_time_ends_a_run(tmp_path: Path):
    report = run(tmp_path, iterations=None, hours=1.5 / 3600)
    assert report.iterations > 30
    assert read_log(only_log(report)).ending == "end"


def test_another_shape_is_a_wrong_output_and_no_crash(tmp_path: Path):
    def narrow(bench: Bench) -> None:
        handle = bench.module.register_forward_hook(lambda module, inputs, output: (handle.remove(), output[:, :5])[1])

    report = run(tmp_path / "out", Once(tmp_path / "flag", 5, narrow))
    assert (report.events["sdc"], report.events["critical"], report.events["due"]) == (1, 1, 0)
    assert "shape g:(4, 10) o:(4, 5)" in only_log(report).read_text()


def test_a_golden_file_of_another_platform_is_refused(tmp_path: Path):
    run(tmp_path)
    path = tmp_path / "golden" / "golden.json"
    value = json.loads(path.read_text())
    value["platform"]["cpu"] = "another one"
    path.write_text(json.dumps(value))
    with pytest.raises(InvalidConfig, match="another platform: cpu"):
        run(tmp_path)


def test_a_model_that_gives_nan_as_it_is_cannot_be_soaked(tmp_path: Path):
    model = net()
    model.register_forward_hook(lambda module, inputs, output: output * float("nan"))
    with pytest.raises(InvalidConfig, match="NaN or infinity"):
        soak(Soak(devices=CORE, iterations=1, samples=4), out=tmp_path, model=model, data=DATA)


def test_a_million_wrong_elements_are_described_at_once():
    """A layer in a beam shows 630,000 to 670,000 of them; a loop over elements took minutes for each."""
    golden = torch.zeros(1028, 1024)
    bench = Bench("layer", nn.Identity(), (golden,), decides=False)
    begun = time.process_time()
    found = describe_difference(bench, 0, golden, golden + 1)
    assert time.process_time() - begun < 5
    assert (found.elements, found.errors, len(found.lines)) == (1028 * 1024, 1028 * 1024, 509)
    assert found.lines[0] == "i:(0, 0) g:0.000000e+00 o:1.000000e+00"


def test_the_samples_of_a_wrong_batch_are_named(tmp_path: Path):
    def one_row(bench: Bench) -> None:
        def spoil(module: nn.Module, inputs: object, output: torch.Tensor) -> torch.Tensor:
            handle.remove()
            return output + torch.tensor([[0.0], [0.0], [1.0], [0.0]])

        handle = bench.module.register_forward_hook(spoil)

    report = run(tmp_path / "out", Once(tmp_path / "flag", 5, one_row))
    [event] = events(report, "sdc")
    assert (event["batch"], event["difference"]["rows"]) == (1, [2])  # sample 1 * 4 + 2 of the data


def test_nothing_but_errors_does_not_fill_the_disk(tmp_path: Path):
    def worn_out(bench: Bench, iteration: int) -> None:
        if iteration == 0:
            bench.module.register_forward_hook(lambda module, inputs, output: output * 2)

    report = run(tmp_path, worn_out, iterations=10_000)
    assert (report.events["sdc"], report.events["aborted"], report.events["due"]) == (300, 3, 0)
    assert report.tallies[f"cpu{usable_cores()[0]}"].given_up
    logs = [read_log(path) for path in report.logs.glob("*.log")]
    assert [(log.aborts, log.ending, len(log.corruptions)) for log in logs] == [(1, "end", 100)] * 3
    assert report.analysis.arms[0].episodes == 3


def test_an_error_of_ours_in_a_pass_is_a_due_and_does_not_end_the_run(tmp_path: Path):
    def refuse(bench: Bench) -> None:
        raise InvalidConfig("a guard gave up")

    report = run(tmp_path / "out", Once(tmp_path / "flag", 5, refuse))
    assert (report.events["crash"], report.iterations) == (1, 35)


def test_the_same_weights_behind_guards_are_another_model(tmp_path: Path):
    from holdfast.hardening import RangeRestriction, harden, profile

    run(tmp_path)
    hardened = harden(net(), RangeRestriction(profile(net(), DATA.take(16), at="activations:**"), slack=1.3))
    with pytest.raises(InvalidConfig, match="another model than this digits"):
        soak(Soak(devices=CORE, iterations=1, samples=8), out=tmp_path, model=hardened, data=DATA, name="digits")
    report = soak(Soak(devices=CORE, iterations=4, samples=8), out=tmp_path / "hard", model=hardened, data=DATA)
    assert read_log(only_log(report)).arm == "hardened"
