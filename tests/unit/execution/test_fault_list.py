"""A campaign written down and run again gives the same table, from both kinds of files; nothing malformed is read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from holdfast.data import Dataset
from holdfast.errors import InvalidConfig, NoSuchSite, UnreadableArtifact, UnsupportedVersion, UsageError
from holdfast.execution import (
    FaultList,
    ListedFaults,
    campaign,
    fault_list,
    faults,
    inject,
    read_fault_list,
    replay,
    write_fault_list,
)
from holdfast.faults import BitErrors, BitFlip, Corruption, StuckAt
from holdfast.numerics import bits

LAWS = {
    "flip": (BitFlip(), "activations"),
    "several sites": (BitErrors(rate=2e-5), "activations"),
    "stored": (Corruption(where="channel", what="random-bits"), "weights"),
    "stuck": (StuckAt(rate=1e-4), "weights"),
    "relative error": (Corruption(where="row", what="power-law"), "activations"),
    "set": (Corruption(where="bullet-wake", what="nan"), "activations:conv2"),
    "ends": (Corruption(where="single", what="(bit-flip:bits=2)"), "inputs,outputs"),
}


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
@pytest.mark.parametrize("name", LAWS)
def test_a_list_gives_the_table_of_its_law(
    trained: nn.Module, digits: Dataset, tmp_path: Path, name: str, suffix: str
) -> None:
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    law, at = LAWS[name]
    listed = fault_list(trained, digits, law, at=at, trials=24, seed=5)
    path = tmp_path / f"faults.{suffix}"
    write_fault_list(path, listed)
    read = read_fault_list(path)
    assert read.digest == listed.digest
    assert read.about == listed.about
    assert read.about["seed"] == 5
    table = campaign(trained, digits, law, at=at, trials=24, seed=5)
    again = campaign(trained, digits, ListedFaults(path=str(path)), at=at, trials=24, seed=99)
    assert again.rows == table.rows
    assert again.plan["fault"]["digest"] == listed.digest
    fewer = campaign(trained, digits, ListedFaults(listed=listed), at=at, trials=9, seed=0)
    assert [(row.site, row.element, row.bit, row.input) for row in fewer.rows] == [
        (row.site, row.element, row.bit, row.input) for row in table.rows[:9]
    ]


def test_both_files_hold_the_same(trained: nn.Module, digits: Dataset, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    listed = fault_list(trained, digits, Corruption(where="row", what="power-law"), at="activations", trials=12, seed=1)
    for suffix in ("jsonl", "parquet"):
        write_fault_list(tmp_path / f"a.{suffix}", listed)
    write_fault_list(tmp_path / "b.jsonl", read_fault_list(tmp_path / "a.parquet"))
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()


def test_trials_that_change_nothing_are_kept(trained: nn.Module, digits: Dataset, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    listed = fault_list(trained, digits, BitErrors(rate=0), at="weights", trials=3)
    for suffix in ("jsonl", "parquet"):
        write_fault_list(tmp_path / f"none.{suffix}", listed)
        assert read_fault_list(tmp_path / f"none.{suffix}").digest == listed.digest


def test_the_values_before_and_after_are_those_of_the_run(trained: nn.Module, digits: Dataset) -> None:
    from holdfast.models import tap

    listed = fault_list(trained, digits, Corruption(what="(bit-flip:bit=31)"), at="activations:fc", trials=5, seed=2)
    for item in listed.trials:
        ((before, after),) = item.values
        (flips,) = item.trial.flips
        seen: list[torch.Tensor] = []
        with torch.no_grad(), tap(trained, {"fc": lambda x, seen=seen: seen.append(x.clone()) or x}):
            trained(digits.batch(torch.tensor([item.trial.input]))[0])
        value = seen[0].flatten()[flips.index]
        assert before.to(torch.int32).view(torch.float32) == value
        assert after.to(torch.int32).view(torch.float32) == -value
    (stored,) = fault_list(trained, digits, BitFlip(), at="weights:fc.bias", trials=1).trials
    held = bits.int_view(trained.fc.bias.detach())[stored.trial.flips[0].index].to(torch.int64) & 0xFFFFFFFF
    assert torch.equal(stored.values[0][0], held)
    assert fault_list(trained, digits, BitFlip(), at="weights", trials=1, values=False).trials[0].values == (None,)


def test_codes_of_four_bits_are_listed_as_they_are_stored(trained: nn.Module, digits: Dataset) -> None:
    import holdfast

    small = holdfast.quantize(trained, "int4")
    listed = fault_list(small, digits, Corruption(where="row", what="(set:value=-8)"), at="weights:fc.weight", trials=2)
    for item in listed.trials:
        for change in item.to_json()["changes"]:
            assert set(change["after"]) == {"0x8"}
            assert all(int(code, 16) < 16 for code in change["before"])


def test_any_trial_is_replayed_from_its_seed_and_number(trained: nn.Module, digits: Dataset) -> None:
    law, at = Corruption(where="row", what="power-law"), "activations"
    table = campaign(trained, digits, law, at=at, trials=20, seed=3, batch=1)
    listed = fault_list(trained, digits, law, at=at, trials=20, seed=3)
    for number in (0, 7, 19):
        found = replay(trained, digits, law, at=at, trial=number, seed=3)
        assert found.row == table.rows[number]
        assert found.listed.to_json() == listed.trials[number].to_json()
        assert found.golden.shape == (1, 10)
        same = replay(trained, digits, ListedFaults(listed=listed), at=at, trial=number)
        assert same.row == found.row


def test_a_list_is_a_fault_elsewhere_too(trained: nn.Module, digits: Dataset, tmp_path: Path) -> None:
    listed = fault_list(trained, digits, BitFlip(), at="weights", trials=4)
    path = tmp_path / "one.jsonl"
    write_fault_list(path, listed)
    before = {name: value.clone() for name, value in trained.state_dict().items()}
    with inject(trained, faults.build(f"fault-list:path={path}"), at="weights", seed=1):
        changed = [name for name, value in trained.state_dict().items() if not bits.bit_equal(value, before[name])]
    assert len(changed) == 1
    assert f"weights:{changed[0]}" in {item.trial.flips[0].site.address for item in listed.trials}


def test_lists_of_other_models_and_data_are_refused(trained: nn.Module, digits: Dataset) -> None:
    listed = ListedFaults(listed=fault_list(trained, digits, BitFlip(), at="weights:fc.*", trials=3))
    with pytest.raises(InvalidConfig, match="3 trials, not 4"):
        campaign(trained, digits, listed, at="weights", trials=4)
    with pytest.raises(NoSuchSite, match="outside the selection"):
        campaign(trained, digits, listed, at="weights:conv1.*", trials=3)
    with pytest.raises(InvalidConfig, match="inputs"):
        campaign(trained, digits.take(7), listed, at="weights", trials=3)
    wide = nn.Sequential()
    wide.fc = nn.Linear(64, 10)
    wide.forward = lambda x: wide.fc(x.flatten(1))
    with pytest.raises(NoSuchSite, match="was fp32"):
        campaign(wide, digits, ListedFaults(listed=FaultList(listed.fault_list.trials)), at="weights", trials=3)


GOOD = {
    "trial": 0,
    "input": 3,
    "changes": [
        {
            "site": {"kind": "weights", "name": "w", "format": "int8", "bits": 8, "shape": [4]},
            "element": [1, 2],
            "flip": ["0x1", "0x80"],
            "before": ["0x0", "0x1"],
            "after": ["0x1", "0x81"],
        }
    ],
}


def spoiled(**changes: object) -> dict:
    copy = json.loads(json.dumps(GOOD))
    for path, value in changes.items():
        target, *keys = [copy, *path.split("__")]
        for key in keys[:-1]:
            target = target["changes"][0] if key == "change" else target[key]
        if value is None:
            del target[keys[-1]]
        else:
            target[keys[-1]] = value
    return copy


@pytest.mark.parametrize(
    "line",
    [
        [],
        spoiled(input=None),
        spoiled(input=-1),
        spoiled(input=True),
        spoiled(extra=1),
        spoiled(changes={}),
        spoiled(changes=[5]),
        spoiled(trial=1),
        spoiled(change__site=None),
        spoiled(change__element=[1, 1]),
        spoiled(change__element=[1, 4]),
        spoiled(change__element=[-1, 2]),
        spoiled(change__element=[1.0, 2]),
        spoiled(change__element=[True, 2]),
        spoiled(change__element=[]),
        spoiled(change__flip=["0x1"]),
        spoiled(change__flip=["0x1", "0x100"]),
        spoiled(change__flip=["1", "0x80"]),
        spoiled(change__flip=["0x-1", "0x80"]),
        spoiled(change__flip=[1, 2]),
        spoiled(change__flip=["0x0", "0x80"]),
        spoiled(change__before=None),
        spoiled(change__other=1),
        spoiled(change__site__bits=0),
        spoiled(change__site__bits=65),
        spoiled(change__site__kind="thoughts"),
        spoiled(change__site__shape=[-4]),
        spoiled(change__site__name=3),
        spoiled(change__rule=[{"rule": "scaled", "rows": [[1.0]], "limits": []}]),
        spoiled(change__rule=[{"rule": "scaled", "rows": [[1.0], [1.0]], "limits": [1.0]}]),
        spoiled(change__rule=[{"rule": "becomes", "rows": [1, 2]}]),
        spoiled(change__rule=[{"rule": "run", "rows": ["0x1", "0x2"]}]),
    ],
)
def test_malformed_trials_are_refused(line: object, tmp_path: Path) -> None:
    from holdfast.execution.fault_files import FAULT_LIST_TYPE

    path = tmp_path / "bad.jsonl"
    head = {"type": FAULT_LIST_TYPE, "trials": 1, "digest": "", "about": {}}
    path.write_text(json.dumps(head) + "\n" + json.dumps(line) + "\n")
    with pytest.raises(UnreadableArtifact):
        read_fault_list(path)


def test_files_that_were_cut_or_edited_are_refused(trained: nn.Module, digits: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "faults.jsonl"
    write_fault_list(path, fault_list(trained, digits, BitFlip(), at="weights", trials=5))
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    for damaged in (
        b"",
        whole[:-1],
        whole[:-20],
        b"".join(lines[:-1]),
        lines[0],
        whole + lines[-1],
        b"{}\n",
        whole[7:],
    ):
        path.write_bytes(damaged)
        with pytest.raises((UnreadableArtifact, UnsupportedVersion)):
            read_fault_list(path)
    path.write_bytes(whole.replace(b'"input":', b'"input":1', 1))
    with pytest.raises(UnreadableArtifact, match="edited"):
        read_fault_list(path)
    with pytest.raises(UnreadableArtifact, match=r"cannot read"):
        read_fault_list(tmp_path / "none.jsonl")
    with pytest.raises(UsageError, match=r"jsonl or"):
        read_fault_list(tmp_path / "faults.csv")
    (tmp_path / "x.parquet").write_bytes(b"PAR1 and nothing else")
    pytest.importorskip("pyarrow")
    with pytest.raises(UnreadableArtifact):
        read_fault_list(tmp_path / "x.parquet")


def test_calls_that_make_no_sense_are_refused(trained: nn.Module, digits: Dataset) -> None:
    with pytest.raises(InvalidConfig, match="from a file or from a list"):
        ListedFaults()
    with pytest.raises(InvalidConfig, match="one trial or more"):
        ListedFaults(listed=FaultList(()))
    with pytest.raises(InvalidConfig):
        fault_list(trained, digits, BitFlip(), at="weights", trials=0)
    with pytest.raises(InvalidConfig):
        replay(trained, digits, BitFlip(), at="weights", trial=-1)
