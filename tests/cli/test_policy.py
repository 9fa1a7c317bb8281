"""``check``, ``revoke`` and their files, as typed at a prompt."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from holdfast.cli import main
from holdfast.signing import generate_key, load_signer, sign
from holdfast.signing.keys import write_key
from holdfast.signing.manifests import write_manifest


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("author", "security", "verifier"):
        key = generate_key("ed25519")
        write_key(key, tmp_path / f"{name}.pem")
        (tmp_path / f"{name}.pub").write_bytes(key.public.pem)
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "weights.safetensors").write_bytes(b"weights")
    write_manifest("net", load_signer("file:author.pem"), version=3, tensors=False)
    sign("net", key="file:author.pem")
    return tmp_path


RULES = """
[[model]]
trust = ["author.pub"]

[files]
forbid = ["pickle", "code"]

[rollback]
minimum_version = 2
remember = "marks.json"

[revocation]
list = "revoked.bundle.json"
signer = "security.pub"
"""


def said(capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    captured = capsys.readouterr()
    return captured.out, captured.err


def test_the_life_of_a_list_and_a_policy(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "deploy.toml").write_text(RULES)
    assert main(["revoke", "add", "revoked.bundle.json", "--key", "file:security.pem"]) == 0
    assert main(["check", "net", "--policy", "deploy.toml", "--summary", "vsa.json", "--key", "file:verifier.pem"]) == 0
    assert (
        main(["check", "net", "--policy", "deploy.toml", "--with-summary", "vsa.json", "--trust", "verifier.pub"]) == 0
    )
    assert main(["check", "net", "--policy", "deploy.toml", "--with-summary", "vsa.json", "--trust", "author.pub"]) == 1
    said(capsys)
    add = ["revoke", "add", "revoked.bundle.json", "key:author.pub", "--reason", "compromise"]
    assert main([*add, "--key", "file:security.pem"]) == 0
    assert "version 2" in said(capsys)[1]
    assert main(["check", "net", "--policy", "deploy.toml"]) == 1
    assert "is revoked (compromise)" in said(capsys)[1]
    assert main(["revoke", "verify", "revoked.bundle.json", "--trust", "security.pub", "--maximum-age", "1d"]) == 0
    assert main(["revoke", "verify", "revoked.bundle.json", "--trust", "author.pub"]) == 1
    said(capsys)
    assert main(["revoke", "show", "revoked.bundle.json", "--json"]) == 0
    out, err = said(capsys)
    assert json.loads(out)["entries"][0]["reason"] == "compromise"
    assert "not verified" in err


def test_every_verdict_is_explained_and_the_json_says_the_same(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "net" / "run.py").write_text("evil()")
    (place / "deploy.toml").write_text(RULES)
    assert main(["revoke", "add", "revoked.bundle.json", "--key", "file:security.pem", "--lifetime", "1d"]) == 0
    said(capsys)
    assert main(["check", "net", "--policy", "deploy.toml", "--explain", "--json"]) == 1
    out, err = said(capsys)
    value = json.loads(out)
    assert value["passed"] is False
    states = {item["demand"]: item["state"] for item in value["verdicts"]}
    assert states["[files]"] == states["[[model]] *"] == states["[rollback]"] == "NOT met"
    assert states["[keys]"] == "not asked"
    for item in value["verdicts"]:
        assert f"{item['state']}: {item['demand']}: {item['why']}" in err
    assert "run.py was not signed" in err
    assert "code: run.py is called so" in err


def test_things_are_named_by_themselves(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    things = ["key:author.pub", "model:net", "bundle:net/model.sig", f"dataset:{'d' * 64}"]
    assert main(["revoke", "add", "l.json", *things, "--reason", "unsafe", "--key", "file:security.pem", "--json"]) == 0
    entries = {item["kind"]: item["id"] for item in json.loads(said(capsys)[0])["entries"]}
    assert entries["key"] == load_signer("file:author.pem").public.fingerprint  # type: ignore[attr-defined]
    assert set(entries) == {"key", "model", "bundle", "dataset"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["revoke", "add", "l.json", "author.pub", "--key", "file:security.pem"],
        ["revoke", "add", "l.json", "person:x", "--key", "file:security.pem"],
        ["revoke", "add", "l.json", "key:nowhere.pub", "--key", "file:security.pem"],
        ["revoke", "add", "l.json", "key:author.pub"],
        ["revoke", "add", "l.json", "key:author.pub", "--key", "file:security.pem", "--lifetime", "0d"],
        ["check", "net", "--policy", "deploy.toml", "--summary", "x.json"],
    ],
)
def test_calls_that_make_no_sense_write_nothing(
    place: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert "Traceback" not in said(capsys)[1]
    assert not (place / "l.json").exists()


def test_a_list_of_another_signer_is_not_gone_on_from(place: Path) -> None:
    add = ["revoke", "add", "l.json", "key:author.pub", "--key"]
    assert main([*add, "file:author.pem"]) == 0
    before = (place / "l.json").read_bytes()
    assert main([*add, "file:security.pem"]) == 1
    assert (place / "l.json").read_bytes() == before
    assert main([*add, "file:security.pem", "--trust", "author.pub"]) == 0
