"""What was typed on a command line, as against what is there by default."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import typer

from holdfast.errors import InvalidConfig


def given(context: typer.Context) -> dict[str, Any]:
    """Return the parameters that were typed, by their names in Python."""
    return {name: value for name, value in context.params.items() if _is_typed(context, name)}


def refuse(context: typer.Context, what: str, options: Collection[str]) -> None:
    """Raise :class:`InvalidConfig` where one of ``options``, named as in Python, was typed: nobody would look at it."""
    spelled = {item.name: item.opts[0] for item in context.command.params}
    if typed := sorted(spelled[name] for name in options if _is_typed(context, name)):
        raise InvalidConfig(f"{what} without {', '.join(typed)}", hint=f"{context.command_path} --help")


def _is_typed(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"
