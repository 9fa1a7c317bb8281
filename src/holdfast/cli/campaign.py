"""``holdfast campaign``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast._files import making_folder
from holdfast.cli._campaign_trials import TEXTS, TrialRequest, evaluation_text, run_trials
from holdfast.cli._common import Architecture, Json, Seed, emit, make_app, say, stages
from holdfast.cli._offloaded import require_offload
from holdfast.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

    from holdfast.assessment.chips import ChipOptions
    from holdfast.evidence.record import Record
    from holdfast.execution import Task

app = make_app()


@app.command(
    epilog="Example: holdfast campaign model/ --data digits --fault bit-flip --at activations --trials 1000 -o run/\n\n"
    "Example: holdfast campaign model/ --data digits --fault bit-errors --rates 0.1%,1% --chips 50 -o run/\n\n"
    "Example: holdfast campaign integer/ --data digits --at 'offload:**' --trials 1000 -o run/\n\n"
    "Example: holdfast campaign vit/ --data folder:images --trials 10000 --device cuda -o run/\n\n"
    "Example: holdfast campaign llama/ --data wikitext2:FOLDER --rates 1e-6,1e-5 --chips 20 -o run/"
)
def campaign(
    model: Annotated[Path, typer.Argument(help="Artifact folder, .safetensors or state dict.")],
    data: Annotated[
        str, typer.Option("--data", help="Data: digits, cifar10:ROOT, mnist:ROOT, folder:PATH, wikitext2:ROOT.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the store and the record.")],
    fault: Annotated[
        str | None,
        typer.Option(help="Law: bit-flip, bit-errors:rate=0.001. [default: bit-flip for trials, bit-errors for chips]"),
    ] = None,
    at: Annotated[
        str | None,
        typer.Option(
            help="Sites: activations, weights:conv*, ... (kind:glob, comma-separated). "
            "[default: activations for trials, weights for chips]"
        ),
    ] = None,
    trials: Annotated[int | None, typer.Option(help="Number of trials; or give --margin.", min=1)] = None,
    margin: Annotated[
        str | None, typer.Option(help="Half-width wanted for the share of critical-or-due faults, 0..1 or %.")
    ] = None,
    chips: Annotated[
        int | None, typer.Option(help="Evaluate all data on so many simulated chips, instead of trials.", min=1)
    ] = None,
    rates: Annotated[str | None, typer.Option(help="Bit-error rates on the same chips: 0.001,0.01 or 0.1%,1%.")] = None,
    half_width: Annotated[
        str | None, typer.Option(help="More chips until the error is known to within this, 0..1 or %.")
    ] = None,
    max_chips: Annotated[int, typer.Option(help="Where --half-width gives up.", min=1)] = 1000,
    compare: Annotated[Path | None, typer.Option(help="Another model, met by the same chips.")] = None,
    by: Annotated[str | None, typer.Option(help="Sensitivity by site, role, bit or field.")] = None,
    images: Annotated[
        int | None, typer.Option(help="Evaluate only the first so many images on every chip. [default: all]", min=1)
    ] = None,
    windows: Annotated[int, typer.Option(help="Of text, for a language model's perplexity.", min=1)] = 32,
    prompts: Annotated[int, typer.Option(help="That a language model continues.", min=1)] = 8,
    collapse: Annotated[float, typer.Option(help="Times the clean perplexity at which a model is lost.")] = 10.0,
    confidence: Annotated[float, typer.Option(help="Of the intervals, 0..1.")] = 0.95,
    guard: Annotated[
        list[str] | None,
        typer.Option(help="Harden a second arm, met by the same faults: preset:maximals, checksum. Repeatable."),
    ] = None,
    calibrate: Annotated[
        str | None, typer.Option(help="Clean data for --guard. [default: the training part of --data]")
    ] = None,
    calibration_images: Annotated[
        int, typer.Option(help="How many of the calibration data --guard learns from, the first ones.", min=1)
    ] = 2000,
    relative: Annotated[bool, typer.Option(help="--margin is a part of the share itself: 10% of it.")] = False,
    sampling: Annotated[
        str | None,
        typer.Option(help="Law: bit-uniform, layer-uniform, neuron-uniform, mac-weighted. [default: bit-uniform]"),
    ] = None,
    stratify: Annotated[
        str | None, typer.Option(help="layer-class, layer-bit, layer, class, bit, none. [default: by --margin]")
    ] = None,
    bits: Annotated[str | None, typer.Option(help="Only these bits: 30,29 or sign, exponent-high, mantissa.")] = None,
    exhaustive: Annotated[bool, typer.Option(help="Every bit with every input, once: exact shares.")] = False,
    preset: Annotated[str | None, typer.Option(help="Published plans: leveugle, pytorchfi.")] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="What is critical: classification:critical=top-5, segmentation:iou=0.9, regression:relative=0.1, "
            "detection:iou=0.5, language:edits=2. [default: another class wins, or another text]"
        ),
    ] = None,
    rerun: Annotated[bool, typer.Option(help="Run what went wrong again: transient or persistent?")] = False,
    save_faults: Annotated[
        Path | None,
        typer.Option(help="Write the faults (.jsonl, .parquet), which --fault fault-list:path=... repeats."),
    ] = None,
    cross_sections: Annotated[
        Path | None, typer.Option(help="What a machine is made of (.toml), for FIT and MTTF: docs/reliability.md.")
    ] = None,
    traces: Annotated[int, typer.Option(help="Failures to follow through the model, for the page.", min=0)] = 3,
    engine: Annotated[
        str, typer.Option(help="auto, suffix, lockstep or hooks, which agree up to rounding: docs/engine.md.")
    ] = "auto",
    batch: Annotated[int | None, typer.Option(help="Trials per forward pass. [default: 32]", min=1)] = None,
    executor: Annotated[str, typer.Option(help="inline, processes:N or ray[:ADDRESS].")] = "inline",
    device: Annotated[str, typer.Option(help="Where the model computes: cpu, cuda, cuda:1.")] = "cpu",
    worker: Annotated[
        str | None,
        typer.Option(help="Who computes, with --at offload:**: spawn, unix:PATH, shared:PATH. [default: spawn]"),
    ] = None,
    plan_file: Annotated[
        Path | None, typer.Option("--plan", help="Where each layer runs, with --at offload:**. [default: all blinded]")
    ] = None,
    arch: Architecture = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Inject faults one by one and count what becomes of them, or evaluate whole chips with bit errors.

    A campaign over *trials* draws one fault and one input at a time. A campaign over *chips* draws all errors of a
    chip at once and evaluates all data on it: robust error, or the perplexity of a language model. An interrupted
    campaign resumes when the same call is repeated.
    """
    over_chips = {"--chips": chips, "--rates": rates, "--half-width": half_width, "--compare": compare, "--by": by,
                  "--images": images}  # fmt: skip
    sizes = {"--trials": trials, "--margin": margin, "--exhaustive": exhaustive or None}
    over_trials = sizes | {"--preset": preset, "--guard": guard, "--sampling": sampling, "--stratify": stratify,
                           "--bits": bits, "--relative": relative or None, "--rerun": rerun or None,
                           "--save-faults": save_faults, "--cross-sections": cross_sections,
                           "--task": task}  # fmt: skip
    apart = over_chips | {"--guard": guard, "--executor": None if executor == "inline" else executor,
                          "--device": None if device == "cpu" else device}  # fmt: skip
    require_offload(at or "", worker, plan_file, apart)
    common = {"confidence": confidence, "seed": seed, "executor": executor}
    if _chosen(over_chips, over_trials, data):
        _refuse_over_text(over_chips, data)
        what = _What(model, arch, data, fault or "bit-errors", out, compare, by)
        asked = _asked_of_chips(chips, half_width, max_chips) | {"at": at or "weights", "images": images} | common
        asked["device"] = _started(device)
        reading = {"windows": windows, "prompts": prompts, "collapse": collapse}
        record = _chips(what, [_share(part, "--rates") for part in rates.split(",")] if rates else [], asked, reading)
    else:
        _require_size(sizes, relative=relative)
        plan = {"at": at or "activations", "trials": trials, "relative": relative, "engine": engine, "preset": preset,
                "margin": None if margin is None else _margin(margin), "exhaustive": exhaustive, "rerun": rerun,
                "bits": _positions(bits), "task": _task(task)} | common  # fmt: skip
        also = {"sampling": sampling, "stratify": stratify, "batch": batch}  # whose defaults are campaign's own
        record = run_trials(
            TrialRequest(
                model=model,
                arch=arch,
                data=data,
                fault=fault or "bit-flip",
                out=out,
                plan=plan | {key: value for key, value in also.items() if value is not None},
                guards=tuple(guard or ()),
                calibrate=calibrate,
                calibration_images=calibration_images,
                save_faults=save_faults,
                traces=traces,
                cross_sections=cross_sections,
                worker=worker,
                placing=plan_file,
                device=device,
            )
        )[-1]
    if json:
        emit(record)


def _task(spec: str | None) -> Task | None:
    from holdfast.execution import tasks

    return None if spec is None else tasks.build(spec)


def _asked_of_chips(chips: int | None, half_width: str | None, most: int) -> dict[str, Any]:
    """Return how many chips to begin with, and until when to go on."""
    wanted = None if half_width is None else _share(half_width, "--half-width")
    first = chips or (50 if wanted is None else 10)
    if wanted is not None and most < first:
        raise UsageError(
            f"--half-width begins with {first} chips (--chips, 10 if not given), more than --max-chips {most}",
            hint=f"lower --chips to {most} or fewer, or raise --max-chips (1000 if not given)",
        )
    return {"chips": first, "half_width": wanted, "max_chips": most}


def _started(device: str) -> str | None:
    """Return the name of a GPU, with its index; None for the CPU, by whichever of its names."""
    if device == "cpu":
        return None
    from holdfast._device import device_named

    place = device_named(device, start=True)
    return None if place.type == "cpu" else str(place)


@dataclass(frozen=True)
class _What:
    model: Path
    arch: str | None
    data: str
    fault: str
    out: Path
    compare: Path | None = None
    by: str | None = None


def _chosen(over_chips: Mapping[str, object], over_trials: Mapping[str, object], data: str) -> bool:
    """Say whether the options ask for chips, as those of a text do that ask for nothing in particular.

    Raises:
        UsageError: they contradict each other.
    """
    one, other = ([name for name, value in side.items() if value is not None] for side in (over_chips, over_trials))
    if one and other:
        hint = "trials draw single faults, chips whole realisations; choose one"
        raise UsageError(f"{one[0]} and {other[0]} contradict each other", hint=hint)
    if over_chips["--by"] is not None and (also := {"--rates", "--compare"} & set(one)):
        raise UsageError(f"--by and {min(also)} contradict each other", hint="one model and one rate at a time")
    return bool(one) or (data.startswith(TEXTS) and not other)


def _require_size(sizes: Mapping[str, object], *, relative: bool) -> None:
    """Refuse trials without one word on how many, or with two."""
    given = [name for name, value in sizes.items() if value is not None]
    if relative and sizes["--margin"] is None:
        raise UsageError("--relative says how --margin is meant", hint="for example --margin 10% --relative")
    if not given:
        raise UsageError(
            "how many trials?", hint="give --margin 1% to stop by itself, --trials 1000, --exhaustive, or --chips 50"
        )
    if len(given) > 1:
        hint = "--trials says how often to try, --margin how well to know the share, --exhaustive tries every case"
        raise UsageError(f"{given[0]} and {given[1]} contradict each other", hint=hint)


def _refuse_over_text(over_chips: Mapping[str, object], data: str) -> None:
    if data.startswith(TEXTS):
        for name in ("--half-width", "--compare", "--images"):
            if over_chips.get(name) is not None:
                raise UsageError(f"{name} takes images, not {data}", hint="with a text, give --chips, --rates or --by")


def _positions(text: str | None) -> tuple[int, ...] | str | None:
    """Read ``30,29`` as bit positions; a word is a class of bits."""
    if text is None or not text.replace(",", "").isdecimal():
        return text
    return tuple(int(part) for part in text.split(",") if part)


def _share(text: str, option: str) -> float:
    """Read ``0.005`` or ``0.5%``."""
    try:
        value = float(text.strip().removesuffix("%"))
    except ValueError:
        raise UsageError(f"{option}: {text!r} is no number", hint="write 0.005 or 0.5%") from None
    return value / 100 if text.strip().endswith("%") else value


def _margin(text: str) -> float:
    if not 0 < (value := _share(text, "--margin")) < 1:
        raise UsageError(f"--margin lies between 0 and 100 %, not {text}", hint="write 0.01 or 1%")
    return value


def _chips(what: _What, rates: list[float], options: dict[str, Any], reading: dict[str, Any]) -> Record:
    from holdfast.assessment.chips import ChipOptions
    from holdfast.models import load

    with stages() as announce, making_folder(what.out):
        sizes = ChipOptions(folder=what.out, announce=announce, **options)
        model = load(what.model, arch=what.arch)
        measure = _over_text if what.data.startswith(TEXTS) else _over_images
        record, lines = measure(what, model, rates, sizes, reading)
    for line in lines:
        say(line)
    return record


def _over_images(
    what: _What, model: nn.Module, rates: list[float], sizes: ChipOptions, _: dict[str, Any]
) -> tuple[Record, Iterator[str]]:
    from holdfast.assessment.chips import robust_error_record, sensitivity_record
    from holdfast.cli._tables import robust_error_table, sensitivity_table
    from holdfast.data import dataset
    from holdfast.models import load

    images = dataset(what.data)
    if what.by is not None:
        record = sensitivity_record(model, images, what.fault, sizes, by=what.by)
        return record, sensitivity_table(record)
    other = None if what.compare is None else load(what.compare, arch=what.arch)
    record = robust_error_record(model, images, what.fault, sizes, rates=rates, against=other)
    return record, robust_error_table(record)


def _over_text(
    what: _What, model: nn.Module, rates: list[float], sizes: ChipOptions, reading: dict[str, Any]
) -> tuple[Record, Iterator[str]]:
    from holdfast.assessment.language import language_record
    from holdfast.cli._tables import language_table
    from holdfast.execution import Reading

    words = evaluation_text(what.data, what.model)
    how = Reading(windows=reading["windows"], prompts=reading["prompts"])
    record = language_record(
        model, words, what.fault, sizes, rates=rates, by=what.by, reading=how, collapse=reading["collapse"]
    )
    return record, language_table(record)
