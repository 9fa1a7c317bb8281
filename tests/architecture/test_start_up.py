"""Importing the package and asking for help cost next to nothing."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "numpy", "scipy", "sklearn", "typer", "rich", "cryptography")


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True, env=os.environ)


def loaded_after(code: str) -> set[str]:
    listing = python("-c", f"{code}\nimport sys; print(' '.join(sys.modules))").stdout
    return {name.partition(".")[0] for name in listing.split()}


def cpu_seconds(*arguments: str, repeats: int = 5) -> float:
    def once() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        python(*arguments)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    return min(once() for _ in range(repeats))


def test_importing_holdfast_loads_no_framework():
    assert not loaded_after("import holdfast") & set(HEAVY)


@pytest.mark.parametrize("package", ["evidence", "signing", "policy", "cli"])
def test_light_packages_do_not_load_torch(package: str):
    assert "torch" not in loaded_after(f"import holdfast.{package}")


LIGHT = ["dataset", "digest", "sign", "verify", "check", "diff", "resign", "revoke", "keyset", "lineage", "oci"]


@pytest.mark.parametrize("verb", LIGHT)
def test_verbs_about_evidence_do_not_load_torch(verb: str):
    assert not loaded_after(f"import holdfast.cli.{verb}") & {"torch", "numpy", "pyarrow", "datasets", "sigstore"}


DONE = """
from holdfast.cli import main
for words in {words!r}:
    assert main(words.split()) == 0, words
"""


def test_signing_and_verifying_a_model_loads_no_framework_from_beginning_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    (tmp_path / "policy.toml").write_text('[[model]]\ntrust = ["a.pub"]\n')
    words = [
        "keygen a",
        "sign m --key file:a.pem --outboard",
        "verify m --trust a.pub",
        "digest m",
        "resign m --key file:a.pem --trust a.pub",
        "diff m m",
        "check m --policy policy.toml",
    ]
    loaded = loaded_after(
        f"import sys; real, sys.stdout = sys.stdout, sys.stderr{DONE.format(words=words)}sys.stdout = real"
    )
    assert not loaded & {"torch", "numpy", "pyarrow", "datasets", "sigstore"}


def test_help_costs_little_over_bare_python():
    bare = cpu_seconds("-c", "pass")
    ours = cpu_seconds("-c", "from holdfast.cli import main; main(['--help'])")
    assert ours - bare <= 0.15, f"holdfast --help costs {ours - bare:.3f} CPU-s over bare Python"
