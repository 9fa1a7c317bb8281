"""Recordings come back as they were written, with what they must not be mixed with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from holdfast.data import probes
from holdfast.errors import DigestMismatch, InvalidConfig, UnknownName
from holdfast.identification.distribution import Examples, load_recordings, record, save_recordings
from holdfast.models import build_architecture


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return build_architecture("digits-cnn:channels=4", seed=0).eval()


def test_recordings_come_back_with_inputs_run_and_machine(model: nn.Module, tmp_path: Path):
    data = probes("uniform", n=12, shape=(1, 8, 8))
    written = record(model, data, ["default", "bf16", "mxint8"], run="monday")
    save_recordings(written, tmp_path)
    read = load_recordings(tmp_path)
    assert [item.label for item in read] == ["bf16", "default", "mxint8"]
    for item in read:
        (same,) = (other for other in written if other.label == item.label)
        assert torch.equal(item.trace.outputs, same.trace.outputs)
        assert (item.inputs, item.run, item.machine, item.model) == (same.inputs, "monday", same.machine, same.model)
    with pytest.raises(InvalidConfig, match="already"):
        save_recordings(written, tmp_path)


def test_a_format_that_is_a_platform_too_is_recorded_under_its_full_name(model: nn.Module, tmp_path: Path):
    data = probes("uniform", n=4, shape=(1, 8, 8))
    found = record(model, data, ["bf16", "emulated:bf16", "emulated:mxint8"])
    assert [item.label for item in found] == ["bf16", "emulated:bf16", "mxint8"]
    assert [item.trace.platform.get("emulated") for item in found] == [None, "bf16", "mxint8"]
    save_recordings(found, tmp_path)
    assert {item.label for item in load_recordings(tmp_path)} == {"bf16", "emulated:bf16", "mxint8"}


def test_an_input_has_one_name_in_every_set_of_probes(model: nn.Module):
    """Longer sets of one seed begin alike: a split by sets would let inputs through."""
    few, more = (probes("uniform", n=n, shape=(1, 8, 8)) for n in (6, 12))
    first, second = (record(model, data, ["default"])[0] for data in (few, more))
    assert few.digest != more.digest
    assert first.inputs == second.inputs[:6]
    other = record(model, probes("uniform", n=6, shape=(1, 8, 8), seed=1), ["default"])[0]
    assert not set(first.inputs) & set(other.inputs)


def test_bare_traces_are_labelled_by_their_folder(model: nn.Module, tmp_path: Path):
    data = probes("uniform", n=4, shape=(1, 8, 8))
    for run in ("a", "b"):
        record(model, data, ["default"])[0].trace.save(tmp_path / run / "default")
    read = load_recordings(tmp_path)
    assert [(item.run, item.label) for item in read] == [("a", "default"), ("b", "default")]
    assert read[0].inputs == read[1].inputs
    assert len(Examples.of(read, size=2)) == 4


def test_what_is_not_there_or_not_known_is_said(model: nn.Module, tmp_path: Path):
    data = probes("uniform", n=4, shape=(1, 8, 8))
    with pytest.raises(UnknownName, match="mxint9"):
        record(model, data, ["mxint9"])
    with pytest.raises(InvalidConfig, match="no recordings"):
        load_recordings(tmp_path)
    (written,) = record(model, data, ["default"], run="../up")
    with pytest.raises(InvalidConfig, match="no name of a folder"):
        save_recordings([written], tmp_path)


def test_a_description_of_another_trace_is_refused(model: nn.Module, tmp_path: Path):
    data = probes("uniform", n=4, shape=(1, 8, 8))
    save_recordings(record(model, data, ["default", "bf16"]), tmp_path)
    first, second = sorted(tmp_path.rglob("source.json"))
    first.write_bytes(second.read_bytes())
    with pytest.raises(DigestMismatch, match="another trace"):
        load_recordings(tmp_path)
