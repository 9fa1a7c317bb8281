"""The wheel, installed elsewhere, gives a working ``holdfast``."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    result = subprocess.run([str(part) for part in command], cwd=cwd, env=clean, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result


@pytest.fixture(scope="module")
def wheel(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = tmp_path_factory.mktemp("source")
    names = ("src", "pyproject.toml", "README.md", "LICENSE")
    run("cp", "-r", *[repository / name for name in names], copy, cwd=repository)
    # without isolation: building needs no network, the pinned setuptools is at hand
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", copy / "dist", copy, cwd=copy)
    return next((copy / "dist").glob("holdfast-*.whl"))


@pytest.fixture(scope="module")
def elsewhere(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment that holds the wheel, and sees our installed dependencies but not our source tree."""
    folder = tmp_path_factory.mktemp("elsewhere")
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=folder)
    site = Path(
        run(python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])", cwd=folder).stdout.strip()
    )
    # a plain path in a .pth file comes after the environment's own packages, and runs no .pth of the folder it names
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return folder


def test_the_wheel_holds_everything_it_needs_and_nothing_else(wheel: Path):
    names = zipfile.ZipFile(wheel).namelist()
    assert "holdfast/py.typed" in names
    assert any(name.startswith("holdfast/reporting/templates/") for name in names)
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert {name.split("/")[0].split("-")[0] for name in names} == {"holdfast"}


def test_the_installed_package_is_the_one_that_runs(elsewhere: Path):
    python = elsewhere / "venv" / "bin" / "python"
    where = run(python, "-c", "import holdfast; print(holdfast.__file__)", cwd=elsewhere).stdout
    assert where.startswith(str(elsewhere))
    assert "holdfast 0." in run(elsewhere / "venv" / "bin" / "holdfast", "--version", cwd=elsewhere).stdout


def test_the_demo_runs_from_another_folder(elsewhere: Path):
    work = elsewhere / "work"
    work.mkdir()
    holdfast = elsewhere / "venv" / "bin" / "holdfast"
    run(holdfast, "assess", "--demo", "-o", "demo", cwd=work)
    assert (work / "demo" / "report.html").stat().st_size > 10_000
    assert (work / "demo" / "passport.bundle.json").exists()
    run(holdfast, "verify", "demo", cwd=work)
