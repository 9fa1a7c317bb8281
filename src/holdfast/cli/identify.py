"""``holdfast identify``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli._common import Json, emit, make_app, say
from holdfast.errors import UsageError

app = make_app()


@app.command(epilog="Example: holdfast identify trace/ --against references/   # one trace folder per platform in it")
def identify(
    trace: Annotated[Path, typer.Argument(help="Trace to explain, from holdfast run.")],
    against: Annotated[
        Path, typer.Option(help="Folder of reference traces, each in a folder named after its platform.")
    ],
    threshold: Annotated[
        float, typer.Option(help="Share of bit-equal words below which the answer is unknown.")
    ] = 0.95,
    json: Json = False,
) -> None:
    """Tell which known platform produced a trace, and by which evidence; exit 1 when none did."""
    from holdfast.execution import Trace
    from holdfast.identification import UNKNOWN, Identifier, dtype_from_outputs

    folders = sorted(path.parent for path in against.glob("*/trace.json"))
    if not folders:
        raise UsageError(f"{against} holds no reference traces", hint="make some with holdfast run -o REFERENCES/NAME")
    seen = Trace.load(trace)
    answer = Identifier(threshold).fit([(path.name, Trace.load(path)) for path in folders]).predict(seen)
    for line in answer.evidence:
        say(line)
    say(f"platform: {answer.label}\noutput grid: {dtype_from_outputs(seen.outputs.float()).dtype}")
    if json:
        emit({"platform": answer.label, "equal_fraction": answer.equal_fraction, "evidence": list(answer.evidence)})
    if answer.label == UNKNOWN:
        raise typer.Exit(1)
