"""``holdfast fingerprint``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
from holdfast.cli._probes import known_probes
from holdfast.errors import InvalidConfig

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from holdfast.evidence.record import Measurement
    from holdfast.identification.distribution import Evaluation, Recording, Score

app = make_app()
_RECORD = "holdfast fingerprint record model/ --platform fp32 --platform mxint8 -n 200 -o traces/"
_TRAIN = "holdfast fingerprint train traces/ -o fingerprint/"
Traces = Annotated[Path, typer.Argument(help="Folder of recordings, from holdfast fingerprint record or holdfast run.")]
By = Annotated[
    list[str] | None,
    typer.Option(help="What training and test share none of: inputs, run, machine, model; repeatable."),
]


@app.callback(epilog=f"Example: {_RECORD}\n\nExample: {_TRAIN}")
def fingerprint() -> None:
    """Learn platforms from the bits of outputs to unknown inputs (HSPI-LD), and say honestly what that is worth.

    Where you choose the inputs yourself, holdfast identify tells far more with far less.
    """


@app.command(epilog=f"Example: {_RECORD}")
def record(
    model: Annotated[Path, typer.Argument(help="Model to run.")],
    platform: Annotated[
        list[str],
        typer.Option(help="Settings of this machine (default, batch-1) or emulated formats (mxint8, bm8)."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of recordings; more are added to it.")],
    n: Annotated[int, typer.Option("-n", help="Inputs.", min=1)] = 200,
    run: Annotated[str, typer.Option(help="Name of this pass over the platforms.")] = "run",
    shape: Annotated[str | None, typer.Option(help="Input shape CxHxW, when the model does not say.")] = None,
    arch: Architecture = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Record a model on uniform noise images under several platforms or number formats."""
    from holdfast.identification.distribution import record as recorded
    from holdfast.identification.distribution import save_recordings
    from holdfast.models import load

    require_writable(out)
    subject = load(model, arch=arch)
    data = known_probes(subject, str(n), shape, seed)
    with stages() as announce:
        found = recorded(subject, data, platform, run=run, progress=announce("recording"))
    save_recordings(found, out)
    say(f"wrote {out}: {counted(n, 'input')} under {', '.join(item.label for item in found)}, run {run}")
    if json:
        emit({"folder": str(out), "labels": [item.label for item in found], "probes": data.digest, "run": run})


@app.command(epilog=f"Example: {_TRAIN}")
def train(
    traces: Traces,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for what was learned.")],
    method: Annotated[str, typer.Option(help="ovo-svm or mlp, with options: mlp:hidden=512.")] = "ovo-svm",
    size: Annotated[int, typer.Option(help="Consecutive inputs of one example.", min=1)] = 10,
    folds: Annotated[int, typer.Option(help="Parts of the cross-validation.", min=2)] = 5,
    by: By = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Cross-validate on what was held out, print that, then learn from everything and write it."""
    from holdfast.identification.distribution import Examples, LogitDistribution, evaluate, load_recordings, merged

    require_writable(out)
    recordings = merged(load_recordings(traces))
    examples = Examples.of(recordings, size=size)
    keys = tuple(by or ("inputs",))
    with stages() as announce:
        found = evaluate(examples, method=method, folds=folds, by=keys, seed=seed, progress=announce("judging"))
    _tell(found)
    matching = _matched(recordings, seed)
    learned = LogitDistribution(method, seed=seed).fit(examples)
    learned.save(out)
    say(f"wrote {out}: {method} of {counted(len(examples), 'example')}, labels {', '.join(learned.labels_)}")
    if json:
        more = {"matching": matching.to_json() if matching else None}
        emit({"folder": str(out), "labels": list(learned.labels_)} | found.to_json() | more)


@app.command("eval", epilog="Example: holdfast fingerprint eval fingerprint/ other-traces/ --by inputs --by run")
def evaluate_(
    learned: Annotated[Path, typer.Argument(metavar="FINGERPRINT", help="Folder from holdfast fingerprint train.")],
    traces: Traces,
    by: By = None,
    json: Json = False,
) -> None:
    """Judge a fingerprint by recordings it has not seen, of the same model or another; exit 1 on leakage."""
    from holdfast.identification.distribution import Examples, LogitDistribution, as_classes, judge, load_recordings

    fingerprint = LogitDistribution.load(learned)
    recordings = as_classes(load_recordings(traces), fingerprint.labels_)
    found = judge(fingerprint, Examples.of(recordings, size=fingerprint.size_), by=tuple(by or ("inputs",)))
    _tell(found)
    if json:
        emit({"labels": list(fingerprint.labels_)} | found.to_json())


@app.command(epilog="Example: holdfast fingerprint name fingerprint/ trace/")
def name(
    learned: Annotated[Path, typer.Argument(metavar="FINGERPRINT", help="Folder from holdfast fingerprint train.")],
    trace: Annotated[Path, typer.Argument(help="Trace to name, from holdfast run.")],
    json: Json = False,
) -> None:
    """Name the platform of one trace by the votes of its examples."""
    from holdfast.execution import Trace
    from holdfast.identification.distribution import Examples, LogitDistribution, Recording

    fingerprint = LogitDistribution.load(learned)
    examples = Examples.of([Recording.of("", Trace.load(trace))], size=fingerprint.size_)
    votes = Counter(fingerprint.predict(examples))
    ranked = sorted(votes.items(), key=lambda item: (-item[1], item[0]))
    for label, count in ranked:
        say(f"{label}: {count} of {len(examples)} examples")
    if json:
        emit({"platform": ranked[0][0], "votes": dict(ranked), "examples": len(examples)})


def _matched(recordings: Sequence[Recording], seed: int) -> Score | None:
    """Say what reference matching makes of the same recordings, if something was recorded twice."""
    from holdfast.identification.distribution import match_runs

    try:
        found = match_runs(recordings, seed=seed)
    except InvalidConfig:
        say("reference matching: record the same inputs in a second --run to see it beside this")
        return None
    say(f"reference matching of known inputs, one at a time: accuracy {_interval(found.accuracy)}")
    return found


def _tell(found: Evaluation) -> None:
    for line in _lines(found):
        say(line)


def _lines(found: Evaluation) -> Iterator[str]:
    labels = found.score.labels
    rows = [["held out by " + " and ".join(found.by), "accuracy", "MCC", *(f"F1 {label}" for label in labels)]]
    for item in found.scores:
        f1 = [f"{value.value:.3f}" if (value := item.f1[label]) else "-" for label in labels]
        rows.append([item.name, _interval(item.accuracy), f"{item.mcc.value:.3f}", *f1])
    yield from aligned([*rows, [_chance(found), f"{found.chance:.3f}", "0.000", *[""] * len(labels)]])
    yield f"on what it learned from: {found.training:.3f}, which is no evidence"
    if not found.converged:
        yield "some machines did not converge: raise iterations"
    if not found.beats_baselines:
        yield "not better than what needs no learning: it tells nothing about platforms"


def _chance(found: Evaluation) -> str:
    more = f" ({found.learned} learned)" if found.learned != found.present else ""
    return f"chance: 1 of {found.present} classes present{more}"


def _interval(value: Measurement) -> str:
    return f"{value.value:.3f} ({value.low:.3f}-{value.high:.3f})"
