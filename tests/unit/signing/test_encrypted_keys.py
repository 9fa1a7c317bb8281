"""Passwords of key files: from a prompt or a file, exactly as they are, and on no command line."""

from __future__ import annotations

import importlib
import os
import pkgutil
import shutil
import subprocess
from pathlib import Path

import pytest
import typer

import holdfast.cli
from holdfast.cli._common import password_for
from holdfast.errors import HoldfastError, UnreadableArtifact, UsageError
from holdfast.signing import generate_key, load_signer
from holdfast.signing.keys import write_key


@pytest.mark.parametrize("kind", ["p256", "p384", "p521", "ed25519"])
def test_an_encrypted_key_opens_with_its_password_alone(tmp_path: Path, kind: str):
    key = generate_key(kind)
    write_key(key, tmp_path / "k.pem", password=b"open sesame")
    assert b"ENCRYPTED" in (tmp_path / "k.pem").read_bytes()
    assert load_signer(f"file:{tmp_path}/k.pem", password=b"open sesame").public == key.public
    for wrong, error in (
        (b"Open sesame", UnreadableArtifact),
        (b"open sesame\n", UnreadableArtifact),
        (None, UsageError),
    ):
        with pytest.raises(error) as caught:
            load_signer(f"file:{tmp_path}/k.pem", password=wrong)
        assert "sesame" not in str(caught.value) + caught.value.hint


def test_a_plain_key_with_a_password_is_not_silently_plain(tmp_path: Path):
    write_key(generate_key(), tmp_path / "k.pem")
    with pytest.raises(UsageError):
        load_signer(f"file:{tmp_path}/k.pem", password=b"open sesame")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"open sesame\n", b"open sesame"),
        (b"open sesame\r\n", b"open sesame"),
        (b" a \t\n", b" a \t"),
        (b"\xff", b"\xff"),
    ],
)
def test_only_the_newline_at_the_end_of_a_password_file_is_dropped(tmp_path: Path, data: bytes, expected: bytes):
    (tmp_path / "password").write_bytes(data)
    assert password_for(str(tmp_path / "password")) == expected


def test_a_prompt_needs_a_terminal(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "isatty", lambda _: False)
    with pytest.raises(UsageError, match="no terminal"):
        password_for("-")
    monkeypatch.setattr(os, "isatty", lambda _: True)
    monkeypatch.setattr("getpass.getpass", lambda _: "open sesame")
    assert password_for("-") == b"open sesame"


def test_a_missing_password_file_is_no_empty_password(tmp_path: Path):
    with pytest.raises(HoldfastError):
        password_for(str(tmp_path / "missing"))


def test_no_option_of_any_verb_takes_a_secret_itself():
    seen = set()
    for module in pkgutil.iter_modules(holdfast.cli.__path__):
        app = getattr(importlib.import_module(f"holdfast.cli.{module.name}"), "app", None)
        if not isinstance(app, typer.Typer):
            continue
        for parameter in typer.main.get_command(app).params:
            for option in parameter.opts:
                if any(word in option.lower() for word in ("password", "passphrase", "pin-", "secret")):
                    seen.add(option)
    assert seen == {"--password-file"}


@pytest.mark.parametrize("cipher", ["-aes256", "-aes128"])
def test_keys_that_openssl_encrypted(tmp_path: Path, cipher: str):
    if shutil.which("openssl") is None:
        pytest.skip("no openssl here to make the key")
    (tmp_path / "password").write_text("open sesame\n")
    made = ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", cipher]
    subprocess.run(
        [*made, "-pass", f"file:{tmp_path}/password", "-out", tmp_path / "k.pem"], check=True, capture_output=True
    )
    password = password_for(str(tmp_path / "password"))
    assert load_signer(f"file:{tmp_path}/k.pem", password=password).public.fingerprint
