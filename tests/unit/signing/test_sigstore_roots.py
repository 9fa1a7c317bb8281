"""Refreshing a trusted root: the one function of verification that may use the network, and only when it is called."""

from __future__ import annotations

import importlib.util
import json
import socket
import sys
from pathlib import Path

import pytest

from holdfast.errors import InvalidConfig, MissingExtra, Unavailable, UnsupportedVersion
from holdfast.signing.sigstore import load_root, read_trusted_root, refresh_trusted_root
from tests.sigstore_world import World

needs_sigstore = pytest.mark.skipif(
    importlib.util.find_spec("sigstore") is None, reason="the package sigstore refreshes trusted roots"
)


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in for the TUF client, whose own verification is its own matter: return the file that it would return."""
    import sigstore._internal.tuf as tuf

    class Updater:
        def __init__(self, url: str) -> None:
            assert url == "https://tuf-repo-cdn.sigstage.dev"

        def get_trusted_root_path(self) -> str:
            return str(tmp_path / "target.json")

    monkeypatch.setattr(tuf, "TrustUpdater", Updater)
    return tmp_path / "target.json"


@needs_sigstore
def test_what_is_fetched_is_written_and_is_a_trusted_root(repository: Path, tmp_path: Path):
    repository.write_text(json.dumps(World().trusted_root()))
    root = refresh_trusted_root(tmp_path / "root.json", instance="staging")
    assert read_trusted_root(tmp_path / "root.json") == root
    assert load_root(tmp_path / "root.json") == root


@needs_sigstore
def test_what_is_no_trusted_root_is_not_written_over_the_old_one(repository: Path, tmp_path: Path):
    repository.write_text(json.dumps(World().trusted_root() | {"mediaType": "text/html"}))
    (tmp_path / "root.json").write_text("the old one")
    with pytest.raises(UnsupportedVersion):
        refresh_trusted_root(tmp_path / "root.json", instance="staging")
    assert (tmp_path / "root.json").read_text() == "the old one"


@needs_sigstore
def test_without_a_network_the_refresh_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*arguments: object, **options: object) -> None:
        raise OSError("no network here")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for name in ("XDG_DATA_HOME", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    with pytest.raises(Unavailable, match="cannot refresh"):
        refresh_trusted_root(tmp_path / "root.json")
    assert not (tmp_path / "root.json").exists()


def test_other_instances_have_no_address(tmp_path: Path):
    with pytest.raises(InvalidConfig, match="unknown Sigstore instance"):
        refresh_trusted_root(tmp_path / "root.json", instance="https://evil.example.org")
    with pytest.raises(InvalidConfig, match="needs a trusted root"):
        load_root("")


def test_without_the_package_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "sigstore._internal.tuf", None)
    with pytest.raises(MissingExtra) as caught:
        refresh_trusted_root(tmp_path / "root.json")
    assert "holdfast[sigstore]" in caught.value.hint
