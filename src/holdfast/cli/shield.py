"""``holdfast shield``."""

from __future__ import annotations

import json as standard_json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli._common import Architecture, Json, Seed, emit, make_app, require_writable, say
from holdfast.cli._integer import TOP_CODE, named_model
from holdfast.cli._shield_export import EPILOG, export
from holdfast.cli._steal import EXAMPLE, steal
from holdfast.errors import InvalidConfig, UsageError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from holdfast.shielding.graph import IntegerModel
    from holdfast.shielding.planner import Machine, Rule

app = make_app()
app.command("export", epilog=EPILOG)(export)
app.command(epilog=EXAMPLE)(steal)
_MOST = 2**26  # numbers of one sample: 256 MiB
_SAMPLES = 4  # of noise: enough for scales, which a plan does not depend on


@app.callback(epilog="Example: holdfast shield export model/ --data digits -o integer/")
def shield() -> None:
    """Export a model to integers, plan how two worlds split it, and measure what that hides."""


@app.command(
    epilog="Example: holdfast shield plan timm:resnet18 --example 3x224x224 --rule optimal:hide_weights=fc   "
    "# rules: optimal, whole, none, first-k:k=3, last-k:k=3, deadline:seconds=0.05,sensitivity=FILE, slalom, tsqp, "
    "private-adapters"
)
def plan(
    model: Annotated[str, typer.Argument(help="Model folder or file, or an architecture: cifar-resnet20, timm:NAME.")],
    rule: Annotated[
        str, typer.Option(help="How nodes are placed, name:key=value; optimal obeys the demands.")
    ] = "optimal",
    example: Annotated[
        str | None, typer.Option(help="Size of one input, 3x224x224, or tokens, 64; if the model does not say.")
    ] = None,
    budget: Annotated[int | None, typer.Option(help="Bytes that the trusted world may hold.", min=1)] = None,
    top_code: Annotated[
        int | None, typer.Option(help="Largest activation code of linear nodes. [default: 127]", min=1, max=127)
    ] = None,
    public: Annotated[
        str | None, typer.Option(help="For private-adapters: the public model this was made from.")
    ] = None,
    machine: Annotated[
        Path | None, typer.Option(help="Measured target (JSON); written if it does not exist, else read.")
    ] = None,
    worker: Annotated[
        str | None,
        typer.Option(help="Measure with the worker that will serve: shared:PATH or unix:PATH. [default: spawn one]"),
    ] = None,
    worker_device: Annotated[
        str | None, typer.Option(help="Where the spawned worker computes, such as cuda. [default: cpu]")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write the plan (JSON), for holdfast serve gateway --plan.")
    ] = None,
    every: Annotated[bool, typer.Option("--every", help="One line per node, small trusted work too.")] = False,
    arch: Architecture = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Print where every node computes, what crosses between the worlds, who sees what, and the predicted latency.

    MODEL is what holdfast shield export wrote; any other is exported with scales from noise, which its sizes and costs
    do not depend on. The file binds the plan to MODEL, and to what is exported from MODEL later. A plan that does not
    fit the budget, the deadline or the demands is an error, never a weaker plan.
    """
    from holdfast.models import manifest_of
    from holdfast.shielding.plan_file import write_plan
    from holdfast.shielding.planner import plan as make_plan

    if out is not None:
        require_writable(out.parent)
    net = named_model(model, arch, seed)
    integer = _integer(net, model, example, seed, top_code)
    chosen: Rule | str = rule
    if public is not None:
        chosen = _adapters(rule, integer, named_model(public, arch, seed), example, seed)
    target = _machine(machine, worker, worker_device)
    made = make_plan(integer, chosen, machine=target, budget=budget)
    for line in (made.table(every=every), made.summary(), *made.guarantees()):
        say(line)
    digest = manifest_of(net).digest
    if out is not None:
        write_plan(out, made, digest)
        say(f"wrote {out}, for model {digest[:12]} only")
    if json:
        emit(made.to_json() | {"model": digest})


def _integer(net: nn.Module, name: str, example: str | None, seed: int, top_code: int | None) -> IntegerModel:
    """Return an integer model as it is, and any other exported with scales from noise."""
    from holdfast.shielding.graph import IntegerModel

    if not isinstance(net, IntegerModel):
        return _exported(net, example, seed, TOP_CODE if top_code is None else top_code)
    if named := [flag for flag, value in {"--example": example, "--top-code": top_code}.items() if value is not None]:
        raise UsageError(f"{name} is exported already", hint=f"leave out {', '.join(named)}")
    return net


def _exported(net: nn.Module, example: str | None, seed: int, top_code: int) -> IntegerModel:
    from holdfast.shielding.graph import export

    noise = _noise(net, _shape(net, example), seed)
    return export(net, noise[:1], noise, top_code=top_code)


def _shape(net: nn.Module, example: str | None) -> tuple[int, ...]:
    from holdfast.models import card

    if example is None:
        if (known := card(net).input_shape) is None:
            raise InvalidConfig("the model does not say what it takes", hint="give --example, such as 3x224x224")
        return known
    try:
        shape = tuple(int(side) for side in example.split("x"))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1 or math.prod(shape) > _MOST:
        raise InvalidConfig(
            f"--example is {example!r:.80}",
            hint=f"write the sides of one input, such as 3x224x224, at most {_MOST:,} numbers in all",
        )
    return shape


def _noise(net: nn.Module, shape: tuple[int, ...], seed: int) -> Tensor:
    """Return samples of noise: numbers, or tokens for a model that begins with an embedding."""
    import torch

    from holdfast.seeds import derive

    generator = derive(seed, "shield", "example").torch()
    tables = [part for part in net.modules() if isinstance(part, torch.nn.Embedding)]
    if tables and len(shape) == 1:
        return torch.randint(0, tables[0].num_embeddings, (_SAMPLES, *shape), generator=generator)
    return torch.randn(_SAMPLES, *shape, generator=generator)


def _adapters(rule: str, integer: IntegerModel, public: nn.Module, example: str | None, seed: int) -> Rule:
    from holdfast.shielding.planner import PrivateAdapters, public_nodes

    if rule != "private-adapters":
        raise InvalidConfig("--public goes with --rule private-adapters")
    return PrivateAdapters(public=public_nodes(integer, _exported(public, example, seed, integer.top_code)))


def _machine(path: Path | None, worker: str | None, device: str | None) -> Machine:
    """Return the target that a file holds, or measure it with the worker that is named, over the way it is reached."""
    from holdfast._files import read_bytes, write_atomic
    from holdfast.evidence import canonical
    from holdfast.shielding.planner import Machine, measure

    if worker is not None and device is not None:
        raise UsageError("a worker that runs already has its device", hint="leave out --worker-device")
    if path is not None and path.exists():
        if worker is not None or device is not None:
            raise UsageError(f"{path} was measured already", hint="name another file, or leave the worker out")
        try:
            return Machine.from_json(standard_json.loads(read_bytes(path, "machine file")))
        except ValueError as error:
            if isinstance(error, InvalidConfig):
                raise
            raise InvalidConfig(f"{path} is not JSON", hint="measure the target again") from error
    options = () if device is None else ("--device", device)
    found = measure(worker="spawn" if worker is None else worker, worker_options=options)
    if path is not None:
        write_atomic(path, canonical.dumps(found.to_json()))
    return found
