"""``holdfast check``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli._common import Json, emit, make_app, say
from holdfast.policy import check as check_policy

app = make_app()


@app.command(epilog="Example: holdfast check passport/ --policy deploy.toml")
def check(
    folder: Annotated[Path, typer.Argument(help="Assessment folder with its passport.")],
    policy: Annotated[Path, typer.Option(help="Policy (TOML) of [[require]] tables.")],
    json: Json = False,
) -> None:
    """Hold an assessment against a policy; exit 1 names the requirement and the record that fail."""
    satisfied = check_policy(folder, policy)
    for item in satisfied:
        say(f"met: {item.requirement.kind}: {item.explanation}")
    if json:
        emit({"policy": str(policy), "met": [{"kind": i.requirement.kind, "why": i.explanation} for i in satisfied]})
