"""Importing the package and asking for help cost next to nothing."""

from __future__ import annotations

import os
import resource
import subprocess
import sys

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


@pytest.mark.parametrize("verb", ["digest", "sign", "verify", "check", "lineage"])
def test_verbs_about_evidence_do_not_load_torch(verb: str):
    assert "torch" not in loaded_after(f"import holdfast.cli.{verb}")


def test_help_costs_little_over_bare_python():
    bare = cpu_seconds("-c", "pass")
    ours = cpu_seconds("-c", "from holdfast.cli import main; main(['--help'])")
    assert ours - bare <= 0.15, f"holdfast --help costs {ours - bare:.3f} CPU-s over bare Python"
