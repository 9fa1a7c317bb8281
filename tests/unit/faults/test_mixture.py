"""Mixtures of faults: by site, by weight, and nothing else in the file."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from holdfast.errors import InvalidConfig, UnreadableArtifact, UnsupportedVersion
from holdfast.execution import Population, describe_fault
from holdfast.faults import BitFlip, Corruption, Mixture, Share, Timed, TransientErrors
from holdfast.models import Site
from holdfast.seeds import derive

CONV = Site("activations", "conv1", (4, 5, 5), "fp32", 32)
FC = Site("activations", "fc", (100,), "fp32", 32)
PARTS = (
    Share(3.0, "activations:conv*", Corruption(where="channel")),
    Share(1.0, "*", BitFlip()),
)


def test_the_site_says_which_faults_there_are_and_the_weights_which_one() -> None:
    law, seen = Mixture(shares=PARTS), {"conv1": [], "fc": []}
    for number in range(3000):
        (item,) = law.flips(Population((CONV, FC)), derive(number, "m"))
        seen[item.site.name].append(len(item.index))
    assert set(seen["fc"]) == {1}
    assert set(seen["conv1"]) == {1, 25}
    whole, total = seen["conv1"].count(25), len(seen["conv1"])
    assert abs(whole / total - 0.75) < 4 * math.sqrt(0.75 * 0.25 / total)
    assert abs(total / 3000 - 0.5) < 4 * math.sqrt(0.25 / 3000)  # both have as many bits


def test_a_site_without_a_fault_is_named() -> None:
    with pytest.raises(InvalidConfig, match="no fault for activations:fc"):
        Mixture(shares=PARTS[:1]).flips(Population((FC,)), derive(0, "m"))
    with pytest.raises(InvalidConfig, match="empty"):
        Mixture(shares=PARTS).flips(Population(()), derive(0, "m"))


def test_what_a_mixture_cannot_be() -> None:
    with pytest.raises(InvalidConfig, match="from a file or from shares"):
        Mixture()
    for fault in (TransientErrors(rate=0.1), Timed(fault=BitFlip())):
        with pytest.raises(InvalidConfig, match="come and go"):
            Mixture(shares=(Share(1.0, "*", fault),))
    assert Timed(fault=Mixture(shares=PARTS), passes="3").window == (3, 3)


GOOD = {"type": "holdfast.fault-mixture/v1", "source": "", "faults": [{"weight": 1, "at": "*", "fault": "bit-flip"}]}


@pytest.mark.parametrize(
    "fault",
    [
        3,
        {},
        {"weight": 0, "at": "*", "fault": "bit-flip"},
        {"weight": True, "at": "*", "fault": "bit-flip"},
        {"weight": 1, "at": 1, "fault": "bit-flip"},
        {"weight": 1, "at": "*", "fault": "no-such-fault"},
        {"weight": 1, "at": "*", "fault": "bit-flip:x=1"},
        {"weight": 1, "at": "*", "fault": "bit-flip", "more": 1},
    ],
)
def test_malformed_files_are_refused(fault: object, tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    path.write_text(json.dumps(GOOD | {"faults": [fault]}))
    with pytest.raises(UnreadableArtifact):
        Mixture(path=str(path))


def test_the_file_s_digest_goes_into_the_record(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    path.write_text(json.dumps(GOOD))
    described = describe_fault(Mixture(path=str(path)))
    assert described["name"] == "mixture"
    assert described["digest"]
    for text, error in (("{}", UnsupportedVersion), (json.dumps(GOOD | {"faults": []}), UnreadableArtifact)):
        path.write_text(text)
        with pytest.raises(error):
            Mixture(path=str(path))
