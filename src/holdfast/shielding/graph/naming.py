"""What nodes of a captured graph are called in messages: by operation, module and line of the model."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import fx

TORCH = str(Path(torch.__file__).parent)
_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+)')


def describe(node: fx.Node) -> str:
    """Name a node for a message: its operation, its module, and the line of the model that made it."""
    module = module_path(node)
    place = _source_line(node.meta.get("stack_trace") or "")
    where = f"module {module!r}" if module else "the model itself"
    return f"node {node.name!r} ({node.target}) in {where}{place}"


def _source_line(trace: str) -> str:
    """Return the innermost line of a node's stack trace that is not torch's own, as text."""
    found = [match for match in _FRAME.finditer(trace) if not match["file"].startswith(TORCH)]
    return f" ({Path(found[-1]['file']).name}:{found[-1]['line']})" if found else ""


def module_path(node: fx.Node) -> str:
    """Return the path of the module whose forward made the node."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return str(stack[-1][0]) if stack else ""
