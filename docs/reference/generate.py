"""Write ``docs/reference/README.md``: every public name with its signature and what it says about itself.

Run ``python docs/reference/generate.py`` after a change of a public signature or docstring; a test compares.
"""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path

import holdfast

PAGE = Path(__file__).with_name("README.md")
HEAD = """# Reference

Every name that stands on `holdfast` itself, generated from the source by `docs/reference/generate.py`.
"""


def page() -> str:
    """Return the whole page."""
    return "\n".join([HEAD, *(_entry(name) for name in sorted(holdfast.__all__, key=str.lower))])


def _entry(name: str) -> str:
    value = getattr(holdfast, name)
    home = getattr(value, "__module__", type(value).__module__)
    text = inspect.cleandoc(value.__doc__ or "")
    return f"## `{name}`\n\n```text\n{_signature(name)}\n```\n\n*{home}*\n\n```text\n{text}\n```\n"


def _signature(name: str) -> str:
    """Return the signature as written in the source: evaluated annotations read worse."""
    value = getattr(holdfast, name)
    if inspect.isclass(value):
        return f"class {name}{_fields(value)}"
    if not inspect.isfunction(value):
        return f"{name}: {type(value).__name__}"
    source = inspect.getsourcefile(inspect.unwrap(value))
    tree = ast.parse(Path(str(source)).read_text())
    wanted = inspect.unwrap(value).__name__
    node = next(n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == wanted)
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"{name}({ast.unparse(node.args)}){returns}"


def _fields(kind: type) -> str:
    module = importlib.import_module(kind.__module__)
    tree = ast.parse(inspect.getsource(module))
    body = next(n for n in ast.walk(tree) if isinstance(n, ast.ClassDef) and n.name == kind.__name__).body
    init = next((n for n in body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
    if init is not None:
        return f"({ast.unparse(init.args)})".replace("(self, ", "(").replace("(self)", "()")
    fields = [
        ast.unparse(n) for n in body if isinstance(n, ast.AnnAssign) and not ast.unparse(n.target).startswith("_")
    ]
    return f"({', '.join(fields)})"


if __name__ == "__main__":
    PAGE.write_text(page())
