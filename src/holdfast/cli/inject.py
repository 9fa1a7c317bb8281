"""``holdfast inject``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli._common import Json, Seed, emit, make_app, say, stages
from holdfast.cli._lineage import PasswordFile, Recorder, StepKey

if TYPE_CHECKING:
    from holdfast.execution import Fault, Progress
    from holdfast.faults import FileInjection

app = make_app()


@app.command(epilog="Example: holdfast inject model/ --fault bit-errors:rate=0.001 --seed 7 -o broken/")
def inject(
    model: Annotated[
        Path,
        typer.Argument(help="Artifact folder, .safetensors or .gguf file, packed or not, or folder of shards."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The broken copy, a folder or file like MODEL.")],
    fault: Annotated[str, typer.Option(help="Law of the fault: bit-errors:rate=0.001, bit-flip, ...")],
    at: Annotated[str, typer.Option(help="Which tensors, e.g. weights:model.layers.*.")] = "weights",
    seed: Seed = 0,
    key: StepKey = None,
    password_file: PasswordFile = None,
    json: Json = False,
) -> None:
    """Write a copy of a stored model with faults in its bits, without loading it.

    The same seed breaks the same bits as injection into the loaded model does, however the file is sharded.
    """
    import holdfast.faults  # noqa: F401  registers the laws that are asked for by name
    from holdfast.execution import faults

    recorder = Recorder(key, password_file)
    wrote = "replaced" if out.is_file() or (out.is_dir() and any(out.iterdir())) else "wrote"
    with stages() as announce:
        done = _broken(model, out, faults.build(fault), at, seed, announce("breaking files"))
    if (out / "model.json").is_file():
        recorder.record_copy(out, model, "inject", {"fault": fault, "at": at, "seed": str(seed)})
    hit = sum(count > 0 for count in done.flipped.values())
    rate = f" (a rate of {done.total / done.population:.3g})" if done.population else ""
    say(f"{wrote} {out}: {done.total:,} of {done.population:,} bits flipped{rate}")
    say(f"{hit} of {len(done.flipped)} selected tensors changed")
    if json:
        emit({"bits": done.population, "fault": fault, "flipped": dict(done.flipped), "out": str(out), "seed": seed})


def _broken(model: Path, out: Path, law: Fault, at: str, seed: int, progress: Progress) -> FileInjection:
    """Break floats and codes by their tensors, and packed codes where they are packed."""
    from holdfast.errors import InvalidConfig
    from holdfast.faults import FileInjection, inject_file
    from holdfast.quantization.adapters import inject_packed, is_packed, open_packed

    if is_packed(model):
        flipped = inject_packed(model, out, law, at=at, seed=seed)
        with open_packed(model) as file:
            population = file.population(at)
        addresses = [site.address for site in population.sites]
        return FileInjection({name: flipped.get(name, 0) for name in addresses}, population.bits)
    if model.is_dir() and any(is_packed(file) for file in sorted(model.iterdir())):
        raise InvalidConfig(f"{model} is a packed checkpoint", hint="break its weight files one by one")
    return inject_file(model, out, law, at=at, seed=seed, progress=progress)
