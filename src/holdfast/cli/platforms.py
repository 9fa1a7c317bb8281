"""``holdfast platforms``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli._common import (
    Architecture,
    Json,
    Seed,
    aligned,
    counted,
    emit,
    make_app,
    require_writable,
    say,
    stages,
)
from holdfast.cli._orders import show_orders
from holdfast.cli._probes import PER_MODEL, known_probes, probe_count
from holdfast.cli._trace_there import require_same, trace_there

if TYPE_CHECKING:
    from collections.abc import Iterable

    from holdfast.identification.library import EquivalenceClass, Library, Skipped
    from holdfast.identification.library.sweep import Swept
    from holdfast.identification.platforms.process import Case

app = make_app()
SHIPPED = "shipped"
_NAMED = 4  # platforms in one line
Shape = Annotated[str | None, typer.Option(help="Input shape CxHxW, when the model does not say.")]
AtLeast = Annotated[int, typer.Option(help="Exit 1 when fewer joint classes were found.", min=0)]


@app.callback(epilog="Example: holdfast platforms build -o library/")
def platforms() -> None:
    """Keep reference traces of the platforms a machine can be, and the classes they fall into."""


@app.command(epilog="Example: holdfast platforms build -o library/ --model model/ --probes 16 --skip 'openvino*'")
def build(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the library; what it knows already stays.")],
    model: Annotated[Path | None, typer.Option(help="Model to trace; without one, the fixed probe nets.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the model in the library; its file name otherwise.")] = None,
    probes: Annotated[
        str | None,
        typer.Option(
            help="Probe inputs, as for holdfast run: a number, or fixed:N. [default: 64 for a model, 4 for the nets]"
        ),
    ] = None,
    platform: Annotated[list[str] | None, typer.Option(help="Platforms to run, a pattern; repeatable.")] = None,
    skip: Annotated[list[str] | None, typer.Option(help="Platforms not to run, a pattern; repeatable.")] = None,
    add: Annotated[list[Path] | None, typer.Option(help="Another library to take in first; repeatable.")] = None,
    at_least: AtLeast = 0,
    shape: Shape = None,
    arch: Architecture = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Run every platform of this machine in a fresh process and add its classes; the same call resumes after a kill."""
    from holdfast.identification.library import Library
    from holdfast.identification.library.files import DESCRIPTION
    from holdfast.identification.library.sweep import chosen_platforms, probe_cases, require_answers, sweep

    require_writable(out)
    library = Library.load(out) if (out / DESCRIPTION).exists() else Library()
    before = len(library.classes())
    for other in add or []:
        library.merge(Library.load(other))
    cases = (
        probe_cases(probe_count(probes or "4"))
        if model is None
        else [_case(model, name, probes or PER_MODEL, shape, arch, seed)]
    )
    chosen = chosen_platforms(platform or (), skip or ())
    with stages() as announce:
        stage = announce("platforms")
        swept = sweep(
            library,
            cases,
            chosen,
            named=platform or (),
            save=lambda: library.save(out),
            progress=stage,
        )
    require_answers(library, swept, [case.name for case in cases])
    library.save(out)
    _say_swept(library, swept, before, out)
    if json:
        emit(_summary(library) | {"ran": list(swept.ran), "kept": list(swept.kept), "before": before})
    _require(library, at_least)


@app.command(epilog="Example: holdfast platforms show shipped")
def show(
    library: Annotated[str, typer.Argument(help="Folder of a library, or shipped: the one in the package.")] = SHIPPED,
    model: Annotated[str | None, typer.Option(help="Classes on this one model instead of jointly on all.")] = None,
    at_least: AtLeast = 0,
    orders: Annotated[
        bool, typer.Option("--orders", help="Instead, in which order kernels of this machine add 512 numbers.")
    ] = False,
    json: Json = False,
) -> None:
    """Print the machines, the classes with their members and digests, and what did not run and why."""
    if orders:
        show_orders(json)
        return
    found = _opened(library)
    classes = found.classes(model)
    _say_library(found, classes, model)
    if json:
        emit(_summary(found) | {"classes": [item.to_json() for item in classes]})
    _require(found, at_least)


@app.command(epilog="Example: holdfast platforms trace transformer --platform onednn-avx2 -o trace/")
def trace(
    net: Annotated[str, typer.Argument(help="Probe net: mlp, cnn, resnet, mobilenet, transformer, reductions.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the trace.")],
    platform: Annotated[str, typer.Option(help="What to be; holdfast platforms show lists names.")] = "default",
    probes: Annotated[int, typer.Option(help="Fixed inputs; the library in the package has 4.", min=1)] = 4,
    replace: Annotated[bool, typer.Option("--replace", help="Overwrite a trace of something else.")] = False,
    json: Json = False,
) -> None:
    """Trace a probe net here in a fresh process, for holdfast identify to compare with a library."""
    from holdfast._registry import unknown
    from holdfast.identification.platforms import LISTED_BY, LOCAL_PLATFORMS, trace_on
    from holdfast.identification.probe_nets import probe_inputs, probe_net

    require_writable(out)
    if platform not in LOCAL_PLATFORMS:
        raise unknown("platform", platform, LOCAL_PLATFORMS, listed_by=LISTED_BY)
    before = trace_there(out)
    found = trace_on(LOCAL_PLATFORMS[platform], probe_net(net), probe_inputs(probes), fresh=True)
    if not replace:
        require_same(before, found, out)
    found.save(out)
    say(f"wrote {out}: {net} on {counted(probes, 'probe')} as {platform}")
    if json:
        emit({"folder": str(out), "probes": found.probe_digest, "model": found.model_digest, "platform": platform})


@app.command(epilog="Example: holdfast platforms nets -o nets/ --onnx")
def nets(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the nets and their inputs.")],
    probes: Annotated[int, typer.Option(help="Fixed inputs; the library in the package has 4.", min=1)] = 4,
    onnx: Annotated[bool, typer.Option(help="Write NET.onnx too, for batches of all the inputs.")] = False,
    json: Json = False,
) -> None:
    """Write the probe nets and their inputs, to be served where Holdfast is not installed."""
    from safetensors.torch import save as safetensors_bytes

    from holdfast._files import write_atomic
    from holdfast.identification.library.sweep import probe_cases
    from holdfast.identification.platforms.onnx_stacks import exported
    from holdfast.models import manifest_of, save

    require_writable(out)
    cases = probe_cases(probes)
    inputs, _ = cases[0].probes.all()
    write_atomic(out / "inputs.safetensors", safetensors_bytes({"inputs": inputs}))
    for case in cases:
        save(case.model, out / case.name)
        if onnx:
            write_atomic(out / f"{case.name}.onnx", exported(case.model, inputs))
        say(f"{out / case.name}: model {manifest_of(case.model).digest[:12]}")
    say(f"{out / 'inputs.safetensors'}: {counted(probes, 'input')}, probes {cases[0].probes.digest[:12]}")
    if json:
        emit({"folder": str(out), "nets": [case.name for case in cases], "probes": cases[0].probes.digest})


def _opened(name: str) -> Library:
    from holdfast.identification.library import Library, shipped

    return shipped() if name == SHIPPED else Library.load(name)


def _case(model: Path, name: str | None, probes: str, shape: str | None, arch: str | None, seed: int) -> Case:
    from holdfast.identification.platforms.process import Case
    from holdfast.models import load

    subject = load(model, arch=arch)
    return Case(name or model.resolve().stem, subject, known_probes(subject, probes, shape, seed))


def _require(library: Library, at_least: int) -> None:
    if (found := len(library.classes())) < at_least:
        say(f"fewer classes than needed: {found}, not {at_least}")
        raise typer.Exit(1)


def _say_swept(library: Library, swept: Swept, before: int, out: Path) -> None:
    for line in _reasons([item for item in library.skipped if item.platform in swept.skipped or item.subject]):
        say(f"skipped {line}")
    new = len(library.classes()) - before
    say(f"ran {len(swept.ran)}, had {len(swept.kept)} already, skipped {len(swept.skipped)}")
    say(f"{out}: {counted(len(library.entries), 'platform')}, {_classes(len(library.classes()))}, {new} new")


def _say_library(library: Library, classes: tuple[EquivalenceClass, ...], model: str | None) -> None:
    for name, machine in sorted(library.machines.items()):
        versions = ", ".join(f"{package} {version}" for package, version in machine.versions.items())
        say(f"machine {name}: {machine.processor}, {machine.system}, {versions}")
    say("")
    for row in aligned([("classes on", "found"), *_per_subject(library)]):
        say(row)
    say(f"\n{_classes(len(classes))} on {model or 'all jointly'}:")
    for item in classes:
        say(f"  {item.digest[:12]}  {item.name}")
    for line in _reasons(library.skipped):
        say(f"not here: {line}")


def _reasons(skipped: Iterable[Skipped]) -> list[str]:
    """Return a line for each reason, with the platforms that share it: all settings of a GPU where there is none."""
    groups: dict[tuple[str, str], list[str]] = {}
    for item in skipped:
        groups.setdefault((item.reason, item.subject), []).append(item.platform)
    return [
        f"{_some(names)}{f' on {subject}' if subject else ''}: {reason}" for (reason, subject), names in groups.items()
    ]


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:_NAMED])
    return shown if len(names) <= _NAMED else f"{shown} and {len(names) - _NAMED} more"


def _classes(count: int) -> str:
    return f"{count} class" + ("" if count == 1 else "es")


def _per_subject(library: Library) -> list[tuple[str, str]]:
    rows = [(item.name, str(len(library.classes(item.name)))) for item in library.subjects()]
    return [*rows, ("all jointly", str(len(library.classes())))]


def _summary(library: Library) -> dict[str, Any]:
    return {
        "machines": {name: machine.to_json() for name, machine in sorted(library.machines.items())},
        "subjects": [item.to_json() for item in library.subjects()],
        "platforms": sorted(library.labels().values()),
        "classes": [item.to_json() for item in library.classes()],
        "skipped": [item.to_json() for item in library.skipped],
    }
