"""The source tree as syntax trees, for the tests that look at its shape."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cache
from pathlib import Path

SRC = Path(__file__).resolve().parents[2] / "src"


@dataclass(frozen=True)
class Module:
    """One file of the package, parsed."""

    path: Path
    name: str
    lines: int
    tree: ast.Module

    @property
    def functions(self) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
        return [node for node in ast.walk(self.tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


@cache
def modules() -> tuple[Module, ...]:
    """All modules of holdfast, sorted by name."""
    return tuple(_parse(path) for path in sorted(SRC.rglob("*.py")))


def _parse(path: Path) -> Module:
    text = path.read_text()
    parts = path.relative_to(SRC).with_suffix("").parts
    name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    return Module(path.relative_to(SRC), name, text.count("\n"), ast.parse(text))


def public_definitions(module: Module) -> list[tuple[str, ast.FunctionDef | ast.ClassDef]]:
    """Functions and classes of a module, and methods of its classes, whose whole path is without underscores."""
    found: list[tuple[str, ast.FunctionDef | ast.ClassDef]] = []

    def visit(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                found.append((f"{prefix}.{node.name}", node))
                if isinstance(node, ast.ClassDef):
                    visit(node.body, f"{prefix}.{node.name}")

    if not any(part.startswith("_") for part in module.name.split(".")):
        visit(module.tree.body, module.name)
    return found
