"""``keyset``, as typed at a prompt: a set, its rotation, and steps that are none."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest

from holdfast.cli import main
from holdfast.signing import generate_key, sign, verify
from holdfast.signing.keys import write_key
from holdfast.signing.times import now, write_time


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("old", "new", "author", "stranger"):
        key = generate_key("ed25519")
        write_key(key, tmp_path / f"{name}.pem")
        (tmp_path / f"{name}.pub").write_bytes(key.public.pem)
    plan("old")
    return tmp_path


def plan(root: str, more: str = "") -> None:
    times = [write_time(now() + timedelta(days=days)) for days in (-1, 90)]
    span = f'not_before = "{times[0]}"\nnot_after = "{times[1]}"\n'
    key = f'pem = "author.pub"\nroles = ["model"]\nnames = ["net*"]\n{span}'
    head = f'name = "house"\nroots = ["{root}.pub"]\nlifetime = "30d"\n{more}'
    Path("plan.toml").write_text(f"{head}[[key]]\n{key}")


def test_a_set_is_rotated_and_still_followed_from_the_first_root(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["keyset", "sign", "keys", "plan.toml", "--key", "file:old.pem"]) == 0
    plan("new")
    assert main(["keyset", "sign", "keys", "plan.toml", "--key", "file:new.pem"]) == 1  # the old root must hand over
    assert not (place / "keys" / "2.bundle.json").exists()
    assert main(["keyset", "sign", "keys", "plan.toml", "--key", "file:new.pem", "--key", "file:old.pem"]) == 0
    capsys.readouterr()
    assert main(["keyset", "verify", "keys", "--root", "old.pub", "--remember", "seen.json", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["version"] == 2
    assert main(["keyset", "verify", "keys", "--root", "stranger.pub"]) == 1
    (place / "net").mkdir()
    (place / "net" / "weights").write_bytes(b"w")
    sign("net", key="file:author.pem")
    assert verify("net", trust="keyset:path=keys,root=old.pub").signers[0].kind == "key"
    (place / "keys" / "2.bundle.json").unlink()
    assert main(["keyset", "verify", "keys", "--root", "old.pub", "--remember", "seen.json"]) == 1
    assert "version 2 was already accepted" in capsys.readouterr().err
    assert main(["keyset", "show", "keys"]) == 0
    assert "not verified" in capsys.readouterr().err


@pytest.mark.parametrize("more", ["threshold = 2\n", "treshold = 1\n", 'threshold = "1"\n'])
def test_plans_that_make_no_sense_write_nothing(place: Path, more: str, capsys: pytest.CaptureFixture[str]) -> None:
    plan("old", more)
    assert main(["keyset", "sign", "keys", "plan.toml", "--key", "file:old.pem"]) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert not (place / "keys").exists()


def test_a_set_that_its_own_root_did_not_sign_is_not_written(place: Path) -> None:
    assert main(["keyset", "sign", "keys", "plan.toml", "--key", "file:stranger.pem"]) == 1
    assert main(["keyset", "sign", "keys", "plan.toml", "--key", "file:old.pem", "--key", "file:old.pem"]) == 2
    assert not (place / "keys").exists()
