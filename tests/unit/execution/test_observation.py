"""Platform, run, compare, accuracy and robust error."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from holdfast.data import Dataset, probes
from holdfast.errors import DigestMismatch, InvalidConfig, UnreadableArtifact, UnsupportedVersion
from holdfast.evidence import canonical
from holdfast.execution import (
    Outcome,
    Trace,
    accuracy,
    compare,
    describe_platform,
    predict,
    robust_error,
    run,
)
from holdfast.execution.platform import Platform
from holdfast.faults import BitErrors
from holdfast.numerics import bits


def test_platform_names_what_changes_results(monkeypatch: pytest.MonkeyPatch) -> None:
    # not a knob of torch itself: those are latched at first use, for the rest of the process
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    seen = describe_platform()
    assert isinstance(seen, Platform)
    assert seen.torch == torch.__version__
    assert seen.capability == torch.backends.cpu.get_cpu_capability()
    assert seen.knobs["OPENBLAS_CORETYPE"] == "Haswell"
    assert canonical.loads(canonical.dumps(seen.to_json())) == seen.to_json()
    assert seen.digest == describe_platform().digest
    monkeypatch.delenv("OPENBLAS_CORETYPE")
    assert describe_platform().digest != seen.digest


def test_threads_and_modes_are_part_of_the_platform() -> None:
    before, threads = describe_platform(), torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        assert describe_platform().threads == threads + 1
    finally:
        torch.set_num_threads(threads)
    precision = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        assert describe_platform().modes != before.modes
    finally:
        torch.set_float32_matmul_precision(precision)


def test_trace_round_trip(trained: nn.Module, digits: Dataset, tmp_path: Path) -> None:
    trace = run(trained, digits.take(20), batch_size=7)
    assert trace.outputs.shape == (20, 10)
    assert trace.probe_digest == digits.take(20).digest
    trace.save(tmp_path)
    back = Trace.load(tmp_path)
    assert bits.bit_equal(back.outputs, trace.outputs)
    assert (back.probe_digest, back.model_digest, back.platform) == (
        trace.probe_digest,
        trace.model_digest,
        trace.platform,
    )


def test_spoilt_traces_are_refused(trained: nn.Module, digits: Dataset, tmp_path: Path) -> None:
    run(trained, digits.take(4)).save(tmp_path)
    outputs = tmp_path / "outputs.safetensors"
    data = bytearray(outputs.read_bytes())
    data[-1] ^= 1
    outputs.write_bytes(data)
    with pytest.raises(DigestMismatch):
        Trace.load(tmp_path)
    (tmp_path / "trace.json").write_text(json.dumps({"type": "holdfast.trace/v9"}))
    with pytest.raises(UnsupportedVersion):
        Trace.load(tmp_path)
    with pytest.raises(UnreadableArtifact):
        Trace.load(tmp_path / "absent")


def test_run_reads_probes_without_labels(trained: nn.Module) -> None:
    found = probes("uniform", n=4, shape=(1, 8, 8), seed=0)
    assert run(trained, found).outputs.shape == (4, 10)
    with pytest.raises(InvalidConfig, match="labels"):
        accuracy(trained, found)


def test_compare_classifies_each_kind() -> None:
    golden = torch.tensor([[1.0, 2.0, 3.0]]).repeat(5, 1)
    observed = golden.clone()
    observed[1, 0] = torch.nextafter(observed[1, 0], torch.tensor(2.0))
    observed[2, 0] = 9.0
    observed[3, 1] = torch.nan
    observed[4, 2] = torch.inf
    found = compare(golden, observed)
    assert [found.outcome(row) for row in range(5)] == [
        Outcome.MASKED,
        Outcome.SDC,
        Outcome.CRITICAL,
        Outcome.DUE,
        Outcome.DUE,
    ]
    assert found.max_ulp[:2].tolist() == [0, 1]
    assert found.max_relative[2] == pytest.approx(8 / 3)
    assert math.isinf(found.max_ulp[3])


def test_compare_sees_the_sign_of_zero() -> None:
    found = compare(torch.tensor([[0.0, 1.0]]), torch.tensor([[-0.0, 1.0]]))
    assert found.outcome(0) is Outcome.SDC
    assert found.max_ulp[0] == 0


def test_compare_refuses_other_shapes() -> None:
    with pytest.raises(InvalidConfig):
        compare(torch.zeros(2, 3), torch.zeros(3, 3))
    with pytest.raises(InvalidConfig):
        compare(torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.float64))


def test_accuracy_counts(trained: nn.Module, digits: Dataset) -> None:
    found = accuracy(trained, digits, batch_size=50)
    images, labels = digits.all()
    with torch.no_grad():
        assert found.successes == int((trained(images).argmax(1) == labels).sum())
    assert found.value > 0.8
    assert found.n == len(digits)


def test_labels_outside_the_classes(digits: Dataset) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 5))
    with pytest.raises(InvalidConfig, match="label 9 is outside"):
        accuracy(model, digits)


def test_robust_error_grows_with_the_rate(trained: nn.Module, digits: Dataset) -> None:
    few = digits.take(100)
    found = [robust_error(trained, few, BitErrors(rate=rate), chips=3, seed=1) for rate in (0.0, 1e-5, 1e-2)]
    assert found[0].per_chip == (found[0].clean.value,) * 3
    assert found[0].mean.value <= found[1].mean.value <= found[2].mean.value
    assert found[2].mean.value > 0.5  # a lost exponent bit is the end of an fp32 network
    assert found[2].worst == max(found[2].per_chip)
    assert all(b >= a for a, b in zip(found[1].per_chip, found[1].per_chip_or_clean, strict=True))
    assert found[1] == robust_error(trained, few, BitErrors(rate=1e-5), chips=3, seed=1)
    with pytest.raises(InvalidConfig, match="at least one chip"):
        robust_error(trained, few, BitErrors(rate=0.1), chips=0)


def test_predict_needs_one_row_per_image(digits: Dataset) -> None:
    with pytest.raises(InvalidConfig, match=r"\(batch, classes\)"):
        predict(nn.Identity(), digits.take(2))
