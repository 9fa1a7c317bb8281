"""Platforms are told apart by the bits of known probes, and what is unknown is called unknown."""

from __future__ import annotations

import pytest
import torch

from holdfast.data import probes
from holdfast.errors import InvalidConfig, UnknownName
from holdfast.execution import Trace
from holdfast.identification import (
    LOCAL_PLATFORMS,
    UNKNOWN,
    Identifier,
    collect_platforms,
    dtype_from_outputs,
    trace_on,
)
from holdfast.models import build_architecture

NAMES = ("default", "onednn-off", "bf16", "fp16")


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return build_architecture("digits-cnn", seed=0).eval()


@pytest.fixture(scope="module")
def data():
    return probes("uniform", n=32, shape=(1, 8, 8), seed=0)


@pytest.fixture(scope="module")
def references(model, data) -> dict[str, Trace]:
    return collect_platforms(model, data, NAMES)


def test_a_fresh_pass_is_named_and_the_evidence_adds_up(model, data, references) -> None:
    identifier = Identifier().fit(list(references.items()))
    assert len(identifier.classes_) == len(NAMES)
    for name in NAMES:
        answer = identifier.predict(trace_on(LOCAL_PLATFORMS[name], model, data))
        assert answer.label == name
        assert answer.equal_fraction == 1.0
        assert answer.runner_up is not None
        assert answer.runner_up.equal_fraction < 0.95


@pytest.mark.slow
def test_a_fresh_process_is_named(model, data, references) -> None:
    identifier = Identifier().fit(list(references.items()))
    answer = identifier.predict(trace_on(LOCAL_PLATFORMS["default"], model, data, fresh=True))
    assert answer.label == "default"


@pytest.mark.parametrize("left_out", NAMES)
def test_a_platform_without_reference_is_unknown(references, left_out: str) -> None:
    known = [(name, trace) for name, trace in references.items() if name != left_out]
    assert Identifier().fit(known).predict(references[left_out]).label == UNKNOWN


def test_equal_traces_merge_into_one_class(references) -> None:
    pairs = [("one", references["default"]), ("two", references["default"]), ("other", references["bf16"])]
    identifier = Identifier().fit(pairs)
    assert identifier.predict(references["default"]).label == "one of {one, two}"


def test_traces_of_other_probes_or_models_are_refused(model, data, references) -> None:
    identifier = Identifier().fit(list(references.items()))
    other_probes = trace_on(LOCAL_PLATFORMS["default"], model, probes("uniform", n=32, shape=(1, 8, 8), seed=1))
    with pytest.raises(InvalidConfig, match="probes"):
        identifier.predict(other_probes)
    other_model = trace_on(LOCAL_PLATFORMS["default"], build_architecture("digits-cnn", seed=1).eval(), data)
    with pytest.raises(InvalidConfig, match="model"):
        identifier.predict(other_model)
    with pytest.raises(InvalidConfig, match="no references"):
        Identifier().predict(references["default"])
    with pytest.raises(InvalidConfig, match="at least one"):
        Identifier().fit([])
    with pytest.raises(UnknownName) as caught:
        collect_platforms(model, data, ["onednn-of"])
    assert "onednn-off" in caught.value.hint


def test_grid_rule_reads_the_head_dtype(references) -> None:
    assert dtype_from_outputs(references["default"].outputs).dtype == "fp32"
    assert dtype_from_outputs(references["bf16"].outputs).dtype == "bf16"
    assert dtype_from_outputs(references["fp16"].outputs).dtype == "fp16"


@pytest.mark.parametrize("places", [0, 1, 2, 3, 4])
def test_grid_rule_does_not_guess_on_rounded_outputs(references, places: int) -> None:
    rounded = (references["default"].outputs.double() * 10**places).round() / 10**places
    assert dtype_from_outputs(rounded.float()).dtype == "cannot tell"


def test_grid_rule_needs_enough_words() -> None:
    assert dtype_from_outputs(torch.tensor([[0.1, 0.2]])).dtype == "cannot tell"
    assert dtype_from_outputs(torch.zeros(64, 10)).dtype == "cannot tell"


def test_traces_round_trip_and_notice_changes(tmp_path, references) -> None:
    references["default"].save(tmp_path)
    found = Trace.load(tmp_path)
    assert torch.equal(found.outputs, references["default"].outputs)
    assert found.probe_digest == references["default"].probe_digest
