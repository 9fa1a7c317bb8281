"""``holdfast shield export``: any model as an integer graph with proved bounds, on disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli._common import Architecture, Json, Seed, aligned, emit, require_other, require_writable, say
from holdfast.cli._integer import SAMPLES, TOP_CODE, calibration, exported, named_model
from holdfast.cli._lineage import PasswordFile, Recorder, StepKey
from holdfast.errors import UsageError

if TYPE_CHECKING:
    from holdfast.shielding.graph import IntegerModel

EPILOG = (
    "Example: holdfast shield export model/ --data digits -o integer/\n\n"
    "Example: holdfast shield export llama/ --data wikitext2:FOLDER --example 64 -o integer/"
)


def export(
    model: Annotated[str, typer.Argument(help="Model folder or file, or an architecture: cifar-resnet20, timm:NAME.")],
    data: Annotated[
        str, typer.Option(help="Training data for the ranges of activations: digits, cifar10:ROOT, wikitext2:ROOT, ...")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Artifact folder to write.")],
    samples: Annotated[
        int, typer.Option(help="Training samples for the ranges, or windows of a text.", min=1)
    ] = SAMPLES,
    top_code: Annotated[
        int, typer.Option(help="Largest activation code of linear nodes.", min=1, max=TOP_CODE)
    ] = TOP_CODE,
    example: Annotated[
        int | None, typer.Option(help="Tokens of one input, of a model of text. [default: what the model says]", min=2)
    ] = None,
    arch: Architecture = None,
    key: StepKey = None,
    password_file: PasswordFile = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Write MODEL as an integer graph and print the proved bound of every node that accumulates.

    The folder holds everything that holdfast shield plan, serve gateway and campaign need; weights and ranges are
    fixed, and every accumulator bound is proved again whenever it is read. Nodes that cannot be exported are all
    named, with what to do.
    """
    from holdfast.data import Dataset
    from holdfast.models import manifest_of
    from holdfast.shielding.graph import IntegerModel

    require_other(out, model)
    require_writable(out)
    recorder, net = Recorder(key, password_file), named_model(model, arch, seed)
    if isinstance(net, IntegerModel):
        raise UsageError(f"{model} is exported already", hint="its bounds: holdfast shield plan")
    train = calibration(data, samples, model)
    if example is not None and isinstance(train, Dataset):
        raise UsageError("--example is the length of a text", hint=f"the size of {data} is known")
    integer = exported(net, train, top_code=top_code, tokens=example, windows=samples)
    integer.save(out)
    recorder.record(
        out, Path(model) if Path(model).is_dir() else None, *([train] if isinstance(train, Dataset) else [])
    )
    rows, digest = _nodes(integer), manifest_of(integer).digest
    for line in _lines(rows):
        say(line)
    say(f"wrote {out}: {sum(row['offloadable'] for row in rows)} layers that can be offloaded\nmodel {digest}")
    if json:
        emit({"model": digest, "folder": str(out), "top_code": integer.top_code, "nodes": rows})


def _nodes(integer: IntegerModel) -> list[dict[str, Any]]:
    """Return every computing node: what it is, its bound if it accumulates, and why it stays trusted if it does."""
    from holdfast.shielding.planner import workload

    bounds = integer.bounds()
    return [
        {
            "node": node.name,
            "operation": node.operation,
            "macs": node.macs,
            "bound": bounds.get(node.name),
            "offloadable": node.linear,
            "reason": node.reason,
        }
        for node in workload(integer).nodes
    ]


def _lines(rows: list[dict[str, Any]]) -> Iterator[str]:
    wide = {"conv2d": 31, "linear": 31, "product": 53}
    told = [row for row in rows if row["bound"] is not None]
    yield from aligned(
        [
            ("node", "operation", "accumulators at most", "of", "world"),
            *(
                (
                    row["node"],
                    row["operation"],
                    f"{row['bound']:,}",
                    f"2^{wide.get(row['operation'], 31)}",
                    "either" if row["offloadable"] else f"trusted ({row['reason']})",
                )
                for row in told
            ),
        ]
    )
    if others := sorted({row["operation"] for row in rows if row["bound"] is None}):
        count = sum(row["bound"] is None for row in rows)
        yield f"trusted as well: {count} nodes that do not accumulate ({', '.join(others)})"
