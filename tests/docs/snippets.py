"""Fenced blocks of the documentation as steps that can be run.

A page is one story: its ``python`` blocks share a namespace, its ``console`` blocks share a folder, all in order.
In a console block a line ``$ command`` runs; the lines under it must appear in the output (``...`` stands for
anything), and ``(exit code N)`` states the exit status where it is not 0. ``<!-- not run: reason -->`` above a block
skips it. They run with the slow tests.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_FENCE = re.compile(r"(<!-- not run: (?P<why>[^>]+) -->\n+)?^```(?P<kind>\w+)\n(?P<body>.*?)^```$", re.S | re.M)
_EXIT = re.compile(r"\(exit code (\d+)\)")


@dataclass
class Command:
    """One console line, what it must print, and how it must exit."""

    line: str
    expected: list[str] = field(default_factory=list)
    exit_code: int = 0


@dataclass(frozen=True)
class Block:
    """One runnable fenced block; ``line`` is where it starts."""

    kind: str
    body: str
    line: int


def pages() -> list[Path]:
    """The README and every page below docs/."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path) -> list[Block]:
    """The runnable blocks of a page, in order."""
    text = page.read_text()
    return [
        Block(found["kind"], found["body"], text.count("\n", 0, found.start("body")) + 1)
        for found in _FENCE.finditer(text)
        if found["kind"] in ("python", "console") and not found["why"]
    ]


def commands(block: Block) -> list[Command]:
    """The commands of a console block with the output each must give."""
    result: list[Command] = []
    for line in block.body.splitlines():
        if line.startswith("$ "):
            result.append(Command(line[2:]))
        elif result and line.strip():
            status = _EXIT.fullmatch(line.strip())
            if status:
                result[-1].exit_code = int(status[1])
            else:
                result[-1].expected.append(line.strip())
    return result


def appears(expected: str, output: str) -> bool:
    """Whether a documented line appears in ``output``."""
    pattern = r"\s+".join(re.escape(word).replace(r"\.\.\.", ".*") for word in expected.split())
    return re.search(pattern, output) is not None
