"""Everything the documentation tells a reader to type is typed here."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from .snippets import ROOT, Block, appears, blocks, commands, pages

BIN = Path(sys.executable).parent


def as_cases() -> list[object]:
    runnable = [page for page in pages() if blocks(page)]
    return [pytest.param(page, id=str(page.relative_to(ROOT)), marks=pytest.mark.slow) for page in runnable]


@pytest.mark.parametrize("page", as_cases())
def test_every_snippet_of_the_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PATH", f"{BIN}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    namespace: dict[str, object] = {"__name__": "__main__"}
    found = blocks(page)
    assert found
    for block in found:
        if block.kind == "python":
            # padded, so that a traceback names the line of the page
            exec(compile("\n" * (block.line - 1) + block.body, str(page), "exec"), namespace)
        else:
            run_console(page, block)


def run_console(page: Path, block: Block) -> None:
    for command in commands(block):
        result = subprocess.run(["bash", "-c", command.line], capture_output=True, text=True, timeout=900)
        said = result.stdout + result.stderr
        assert result.returncode == command.exit_code, f"{page.name}: $ {command.line}\n{said}"
        for line in command.expected:
            assert appears(line, said), f"{page.name}: $ {command.line}\nexpected {line!r} in\n{said}"


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_local_link_of_the_page_leads_somewhere(page: Path):
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
        if not target.startswith(("http://", "https://", "mailto:")):
            assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}, which is not there"


def test_the_readme_lists_every_verb():
    from holdfast.cli import VERBS

    listed = re.findall(r"^\| `holdfast (\w+)` \|", (ROOT / "README.md").read_text(), re.M)
    assert sorted(listed) == sorted(VERBS)


def test_the_glossary_defines_each_term_once():
    terms = re.findall(r"^\| \*\*(.+?)\*\* \|", (ROOT / "docs" / "glossary.md").read_text(), re.M)
    assert len(terms) > 30
    assert len(terms) == len(set(terms))
