"""The library in the package: small, whole, and about the nets that this package makes."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest
import torch

from holdfast.errors import InvalidConfig
from holdfast.execution import Trace
from holdfast.identification import LOCAL_PLATFORMS, UNKNOWN, Identifier
from holdfast.identification.library import Library, shipped
from holdfast.identification.library.sweep import probe_cases
from holdfast.models import manifest_of


@pytest.fixture(scope="module")
def library() -> Library:
    return shipped()


def test_it_is_about_the_nets_and_inputs_of_this_package(library: Library) -> None:
    made = {case.name: (manifest_of(case.model).digest, case.probes.digest) for case in probe_cases()}
    assert {item.name: (item.model_digest, item.probe_digest) for item in library.subjects()} == made


def test_it_holds_thirty_classes_of_three_runtimes(library: Library) -> None:
    runtimes = {LOCAL_PLATFORMS[label].runtime for item in library.classes() for label in item.labels}
    assert {"torch", "numpy", "onnxruntime"} <= runtimes
    assert len([item for item in library.classes() if not item.name.startswith("openvino")]) >= 30


def test_every_platform_of_the_catalogue_ran_or_says_why(library: Library) -> None:
    ran = {entry.platform for entry in library.entries}
    reasons = {item.platform: item.reason for item in library.skipped}
    assert ran | reasons.keys() == LOCAL_PLATFORMS.keys()
    assert all(reasons.values())


def test_it_is_small() -> None:
    folder = Path(str(files("holdfast.identification.library") / "recorded"))
    assert sum(path.stat().st_size for path in folder.iterdir()) < 1 << 20


@pytest.mark.parametrize(
    "net", ["mlp", "cnn", "resnet", "mobilenet", pytest.param("transformer", marks=pytest.mark.slow), "reductions"]
)
def test_each_class_of_a_net_is_named_and_unknown_when_left_out(library: Library, net: str) -> None:
    subject = next(item for item in library.subjects() if item.name == net)
    known = library.references(Trace(torch.zeros(4, 1), subject.probe_digest, subject.model_digest, {}))
    traces = dict(known)
    for item in library.classes(net):
        assert set(Identifier().fit(known).predict(traces[item.labels[0]]).labels) == set(item.labels)
        rest = [(label, trace) for label, trace in known if label not in item.labels]
        assert UNKNOWN in Identifier().fit(rest).predict(traces[item.labels[0]]).labels


def test_a_trace_of_more_probes_is_refused_by_its_reason(library: Library) -> None:
    case = next(case for case in probe_cases(5) if case.name == "mlp")
    trace = Trace(torch.zeros(5, 1), case.probes.digest, manifest_of(case.model).digest, {})
    with pytest.raises(InvalidConfig, match="as mlp, but with other probes"):
        library.references(trace)
