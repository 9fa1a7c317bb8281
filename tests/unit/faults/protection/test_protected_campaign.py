"""Protected faults through the verbs: a campaign from a specification, resumed and split as any other."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast import dataset, load, quantize
from holdfast.assessment.campaigns import campaign_record
from holdfast.cli import main
from holdfast.models import build_architecture, save


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder with a quantised model in it."""
    save(quantize(build_architecture("digits-cnn").eval(), "int8"), tmp_path / "m")
    return tmp_path / "m"


def masked(model: Path, fault: str, out: Path) -> float:
    options = {"at": "weights", "trials": 20, "seed": 0}
    record = campaign_record(load(model), dataset("digits", split="test"), fault, folder=out, **options)
    assert record.procedure["fault"] == fault
    return record.measured["masked"].value


def test_a_stronger_protection_masks_more(model: Path, tmp_path: Path) -> None:
    law = "bit-errors:rate=3e-4"
    bare = masked(model, law, tmp_path / "bare")
    voted = masked(model, f"protected:by=voting,fault={law}", tmp_path / "voted")
    assert bare < 0.5
    assert voted >= 0.85


def test_every_single_flip_is_corrected_by_secded(model: Path, tmp_path: Path) -> None:
    assert masked(model, "protected:by=secded,fault=bit-flip,check-bits=safe", tmp_path / "out") == 1.0


def test_the_command_line_takes_a_protected_fault(model: Path, tmp_path: Path) -> None:
    fault = "protected:by=(secded:matrix=hamming,on-detect=zero),fault=bit-errors:rate=0.001"
    command = ["campaign", str(model), "--data", "digits", "--fault", fault, "--at", "weights", "--trials", "3"]
    assert main([*command, "-o", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "fault-campaign.json").read_text().count(fault) == 1


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("bit-errors:rate=0.001,protect=secded", "has no option 'protect'"),
        ("protected:by=secded", "needs fault"),
        ("protected:by=(secded:ways=2,fault=bit-flip", "not closed"),
        ("protected:by=protect-bits:field=exponent,fault=bit-flip", "has no exponent bits"),
        ("protected:by=in-place-ecc,fault=bit-flip", "outside -64..63"),
    ],
)
def test_what_cannot_be_done_is_one_clear_sentence(
    fault: str, words: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["campaign", str(model), "--data", "digits", "--fault", fault, "--at", "weights", "--trials", "2"]
    assert main([*command, "-o", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert words in " ".join(error.split())
    assert "Traceback" not in error
