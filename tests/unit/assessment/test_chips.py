"""Records of campaigns over chips: what they say equals what was measured, and they can be repeated."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from holdfast.assessment.chips import ChipOptions, robust_error_record, sensitivity_record
from holdfast.assessment.laws import laws
from holdfast.data import Dataset, dataset
from holdfast.errors import InvalidConfig, UnknownName
from holdfast.evidence.record import Record
from holdfast.execution import accuracy, inject, robust_error
from holdfast.faults import BitErrors
from holdfast.models import build_architecture
from holdfast.quantization import quantize
from holdfast.seeds import Seed


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return quantize(build_architecture("digits-cnn:channels=8", seed=1).eval(), "rquant8")


@pytest.fixture(scope="module")
def images() -> Dataset:
    return dataset("digits", split="test").take(80)


def test_the_record_says_what_was_measured(model: nn.Module, images: Dataset, tmp_path: Path) -> None:
    options = ChipOptions(folder=tmp_path / "run", chips=6, seed=3)
    record = robust_error_record(model, images, "bit-errors", options, rates=(0.01, 0.05))
    for rate in (0.01, 0.05):
        found = robust_error(model, images, BitErrors(rate=rate), chips=6, seed=3)
        item, facts = record.measured[f"robust-error@p={rate}"], record.facts["points"][f"p={rate}"]
        assert (item.value, item.n) == (found.mean.value, 6)
        assert item.low == max(0.0, found.mean.low)
        assert facts["chips"] == list(found.per_chip)
        assert facts["cvar"]["error"] == found.cvar(0.1)
        assert len(facts["guarantee"]["sentences"]) == 3
    assert record.measured["error"].value == pytest.approx(1 - accuracy(model, images).value)
    assert Record.from_bytes((tmp_path / "run" / "robust-error.json").read_bytes()) == record


def test_the_recorded_seed_of_the_worst_chip_is_that_chip(model: nn.Module, images: Dataset, tmp_path: Path) -> None:
    options = ChipOptions(folder=tmp_path, chips=5, seed=1)
    record = robust_error_record(model, images, "bit-errors:rate=0.05", options)
    worst = record.facts["points"]["p=0.05"]["worst"]
    with inject(model, BitErrors(rate=0.05), seed=Seed(int(worst["seed"], 16))):
        assert 1 - accuracy(model, images).value == pytest.approx(worst["error"])


def test_repeating_the_call_reads_the_store(model: nn.Module, images: Dataset, tmp_path: Path) -> None:
    options = ChipOptions(folder=tmp_path, chips=4)
    first = robust_error_record(model, images, "bit-errors:rate=0.01", options)
    assert robust_error_record(model, images, "bit-errors:rate=0.01", options) == first
    with pytest.raises(InvalidConfig, match="differ in"):
        robust_error_record(model, images.take(10), "bit-errors:rate=0.01", options)


def test_two_models_on_common_chips(model: nn.Module, images: Dataset, tmp_path: Path) -> None:
    other = quantize(build_architecture("digits-cnn:channels=8", seed=2).eval(), "rquant8")
    options = ChipOptions(folder=tmp_path, chips=6)
    record = robust_error_record(model, images, "bit-errors:rate=0.02", options, against=other)
    facts, item = record.facts["points"]["p=0.02"], record.measured["difference@p=0.02"]
    gaps = [b - a for a, b in zip(facts["chips"], facts["other"]["chips"], strict=True)]
    assert item.value == pytest.approx(sum(gaps) / 6)
    assert facts["pairs"]["second_better"] == sum(gap < 0 for gap in gaps)
    assert set(record.inputs) == {"evaluation", "other-model"}


class _OneUsefulLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.idle = nn.Linear(64, 10), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x.flatten(1))


def test_sensitivity_by_site_names_the_layer_that_matters(images: Dataset, tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = _OneUsefulLayer().eval()
    options = ChipOptions(folder=tmp_path, chips=4)
    record = sensitivity_record(model, images, "bit-errors:rate=0.02", options, by="site")
    assert record.measured["increase[weights:idle.weight]"].value == 0.0
    changed = [part for part in record.facts["groups"] if len(set(part["chips"])) > 1]
    assert {part["group"] for part in changed} <= {"weights:used.weight", "weights:used.bias"}
    assert changed
    assert Record.from_bytes((tmp_path / "bit-error-sensitivity.json").read_bytes()) == record


class _Mean(nn.Module):
    """Answers with the brightness of the image, so that nearly all of ``_shades`` are right."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor([-1.0, 1.0]))

    def forward(self, x: Tensor) -> Tensor:
        return (x.flatten(1).mean(1, keepdim=True) - 0.5) * self.gain


def _shades(labels: Tensor) -> Dataset:
    pixels = torch.tensor([0.0, 1.0]).repeat(20).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)
    return Dataset("shades", pixels.clone(), labels, ("dark", "bright"))


def test_only_a_model_that_guesses_is_doubted(tmp_path: Path) -> None:
    right, model = torch.tensor([0, 1]).repeat(20), _Mean().eval()
    for name, labels in (("right", right), ("wrong", 1 - right), ("half", torch.tensor([0, 0]).repeat(20))):
        options = ChipOptions(folder=tmp_path / name, chips=2)
        record = robust_error_record(model, _shades(labels), "bit-errors:rate=0.01", options)
        warnings = record.facts["warnings"]
        assert len(warnings) == (name != "right")
        assert all("no better than guessing" in text for text in warnings)


def test_laws() -> None:
    assert laws("bit-errors:rate=0.01") == {"p=0.01": BitErrors(rate=0.01)}
    assert list(laws("bit-errors", (0.001, 0.01))) == ["p=0.001", "p=0.01"]
    assert list(laws("bit-flip")) == ["bit-flip"]
    for fault, rates, text in (
        ("bit-errors", (), "needs rate"),
        ("bit-errors:rate=0.1", (0.1,), "already"),
        ("bit-errors", (0.1, 0.1), "twice"),
        ("bit-errors", (1.5,), "between 0 and 1"),
        ("bit-flip", (0.1,), "has no rate"),
    ):
        with pytest.raises(InvalidConfig, match=text):
            laws(fault, rates)
    with pytest.raises(UnknownName):
        laws("biterrors")


def test_rates_reach_a_wrapped_law() -> None:
    found = laws("protected:by=(radar:group=64,key=7),fault=bit-errors", (0.001, 0.01))
    whole = "protected:by=(radar:group=64,key=7),fault=bit-errors:rate=0.01"
    assert found["p=0.01"] == laws(whole)[whole]
    nested = laws("protected:by=secded,fault=(protected:by=on-die-sec,fault=bit-errors)", (0.02,))["p=0.02"]
    assert nested.law.law == BitErrors(rate=0.02)  # type: ignore[attr-defined]
    for fault, rates, text in (
        ("protected:by=secded,fault=bit-errors", (), "needs rate"),
        ("protected:by=secded,fault=bit-errors:rate=0.1", (0.1,), "already"),
        ("protected:by=secded,fault=bit-flip", (0.1,), "has no rate"),
    ):
        with pytest.raises(InvalidConfig, match=text):
            laws(fault, rates)


def test_a_device_is_named_by_the_record_and_changes_nothing_else(
    model: nn.Module, images: Dataset, tmp_path: Path
) -> None:
    plain = robust_error_record(model, images, "bit-errors:rate=0.01", ChipOptions(folder=tmp_path / "a", chips=3))
    options = ChipOptions(folder=tmp_path / "b", chips=3, device="cpu:0")
    there = robust_error_record(model, images, "bit-errors:rate=0.01", options)
    assert there.procedure["device"] == "cpu:0"
    assert "device" not in plain.procedure
    assert there.measured == plain.measured
    assert next(model.parameters()).device == torch.device("cpu")
    options = ChipOptions(folder=tmp_path / "c", chips=3, device="cpu:0")
    assert sensitivity_record(model, images, "bit-errors:rate=0.01", options, by="role").facts["groups"]
