"""Packages that an extra installs, imported where they are used; who lacks one is told which extra to install."""

from __future__ import annotations

import importlib
from typing import Any

from holdfast.errors import MissingExtra


def extra(module: str, *, name: str, needs: str) -> Any:
    """Import ``module`` of the extra ``name`` and return it.

    Args:
        module: full dotted name; the module itself is returned, not its package.
        name: the extra, as pip knows it.
        needs: the first line of the error: what needs which package.

    Raises:
        MissingExtra: it cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtra(needs, hint=f"pip install 'holdfast[{name}]'") from error
