"""``holdfast dataset``: commit, verify, merge, subtract, as a person meets them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from holdfast.cli import main


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("lab", "a", "b"):
        assert main(["keygen", name]) == 0
    return tmp_path


def npz(path, numbers, labels=None):
    np.savez(
        path,
        key=np.array([f"{number:03d}" for number in numbers]),
        x=np.array([[number, number] for number in numbers], np.int16),
        label=np.array(labels if labels is not None else [number % 3 for number in numbers]),
    )


def run(capsys, *arguments, code=0):
    capsys.readouterr()
    assert main(["dataset", *arguments]) == code, capsys.readouterr().err
    said = capsys.readouterr()
    return json.loads(said.out) if said.out else said.err


def commit(capsys, path, numbers, key, name):
    npz(f"{path}.npz", numbers)
    return run(capsys, "commit", f"npz:{path}.npz", "--name", name, "--key", f"file:{key}.pem", "-o", path, "--json")


def test_commit_and_verify(capsys):
    made = run(capsys, "commit", "digits", "--split", "train", "--key", "file:lab.pem", "-o", "train", "--json")
    assert made["count"] == 1297
    assert made["name"] == "digits/train"
    found = run(capsys, "verify", "digits", "train", "--split", "train", "--trust", "lab.pub", "--json")
    assert (found["samples"], found["digest"]) == (1297, made["digest"])
    said = run(capsys, "verify", "digits", "train", "--split", "test", "--trust", "lab.pub", code=1)
    assert "797 missing" in said
    assert "500 changed" in said
    assert "error" in run(capsys, "verify", "digits", "train", "--split", "train", "--trust", "a.pub", code=1)


def test_what_differs_is_named(capsys):
    commit(capsys, "data", range(9), "lab", "mine")
    npz("data.npz", [0, 1, 2, 3, 4, 5, 6, 7, 11], [0, 1, 2, 0, 2, 2, 0, 1, 2])
    said = run(capsys, "verify", "npz:data.npz", "data", "--trust", "lab.pub", "--json", code=1)["error"]
    assert "1 missing: '008' of mine; 1 extra: '011' of mine" in said
    assert "1 changed, first '004' of mine: field 'label' differs" in said


def test_providers_merge_and_subtract(capsys):
    commit(capsys, "one", range(10), "a", "one")
    commit(capsys, "two", range(5), "b", "two")
    merged = run(
        capsys, "merge", "one", "two", "--trust", "a.pub", "--trust", "b.pub", "--key", "file:lab.pem",
        "--name", "both", "-o", "both", "--json",
    )  # fmt: skip
    assert merged["count"] == 15
    providers = ["--provider", "one=a.pub", "--provider", "two=b.pub"]
    held = ["verify", "npz:two.npz", "both", "--trust", "lab.pub"]
    assert run(capsys, *held, *providers, "--source", "two", "--json")["samples"] == 5
    assert "several sources" in run(capsys, *held, *providers, code=2)
    assert "keys of one, two are missing" in run(capsys, *held, "--source", "two", code=1)
    assert "error" in run(
        capsys, *held, "--provider", "one=b.pub", "--provider", "two=b.pub", "--source", "two", code=1
    )
    Path("gone.txt").write_text("one\t003\none\t007\n")
    rest = run(
        capsys, "subtract", "both", "--keys", "gone.txt", "--trust", "lab.pub", *providers, "--key", "file:lab.pem",
        "-o", "rest", "--json",
    )  # fmt: skip
    assert rest["count"] == 13
    assert rest["sources"]["one"]["signer"] is None
    assert rest["sources"]["two"]["signer"] == merged["sources"]["two"]["signer"]


def test_shards_merge_to_the_whole_and_parts_leave_it(capsys):
    whole = commit(capsys, "whole", range(10), "lab", "d")
    commit(capsys, "left", range(6), "lab", "d")
    right = commit(capsys, "right", range(6, 10), "lab", "d")
    key = ["--key", "file:lab.pem", "--trust", "lab.pub"]
    merged = run(capsys, "merge", "left", "right", *key, "--name", "d", "-o", "merged", "--json")
    assert merged["digest"] == whole["digest"]
    assert merged["root"] == whole["root"]
    rest = run(capsys, "subtract", "merged", "--without", "left", *key, "-o", "rest", "--json")
    assert (rest["digest"], rest["root"]) == (right["digest"], right["root"])
    assert run(capsys, "verify", "npz:right.npz", "rest", "--trust", "lab.pub", "--json")["samples"] == 4


BAD = {
    "no data": (["commit", "npz:none.npz", "--key", "file:lab.pem", "-o", "x"], 2, "none.npz"),
    "unknown data": (["commit", "parque:x", "--key", "file:lab.pem", "-o", "x"], 2, "did you mean parquet"),
    "no commitment": (["verify", "digits", "none", "--trust", "lab.pub"], 2, "cannot read dataset commitment"),
    "nothing leaves": (["subtract", "w", "--trust", "lab.pub", "--key", "file:lab.pem", "-o", "x"], 2, "--keys FILE"),
    "unknown key": (
        ["subtract", "w", "--keys", "k", "--trust", "lab.pub", "--key", "file:lab.pem", "-o", "x"],
        2,
        "cannot take away 'nobody'",
    ),
    "keys for one": (
        ["merge", "w", "w", "--trust", "a.pub", "--trust", "b.pub", "--trust", "lab.pub", "--key", "file:lab.pem",
         "--name", "x", "-o", "x"],
        2,
        "3 keys for 2",
    ),
    "the same twice": (
        ["merge", "w", "w", "--trust", "lab.pub", "--key", "file:lab.pem", "--name", "x", "-o", "x"], 2, "twice",
    ),
    "only one": (
        ["merge", "w", "--trust", "lab.pub", "--key", "file:lab.pem", "--name", "x", "-o", "x"], 2, "at least two",
    ),
    "no provider": (["verify", "digits", "w", "--trust", "lab.pub", "--provider", "x"], 2, "ID=KEY.pub"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_mistakes_are_explained(case, capsys, place):
    arguments, code, sentence = BAD[case]
    commit(capsys, "w", range(3), "lab", "w")
    (place / "k").write_text("nobody\n")
    assert sentence in run(capsys, *arguments, code=code)
    assert not (place / "x").exists()


@pytest.mark.parametrize("verb", ["commit", "verify", "merge", "subtract"])
def test_every_part_helps(verb, capsys):
    assert main(["dataset", verb, "--help"]) == 0
    assert "Example: holdfast dataset" in capsys.readouterr().out
