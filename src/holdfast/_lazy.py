"""Module attributes that are imported on first use (PEP 562), so ``import holdfast`` costs nothing."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping


def attach(module: str, exports: Mapping[str, str]) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Return ``__getattr__`` and ``__dir__`` for ``module``; ``exports`` maps a name to ``module:attribute``."""

    def __getattr__(name: str) -> object:  # noqa: N807
        if name not in exports:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        target, _, attribute = exports[name].partition(":")
        value = getattr(importlib.import_module(target), attribute)
        # importing a subpackage binds its own name on the parent; the verb of that name must win for ever
        setattr(sys.modules[module], name, value)
        return value

    return __getattr__, lambda: sorted(exports)
