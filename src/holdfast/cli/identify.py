"""``holdfast identify``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli._common import Json, aligned, counted, emit, make_app, printable, say
from holdfast.errors import UsageError

if TYPE_CHECKING:
    from holdfast.execution import Trace
    from holdfast.identification import Decision, Identification
    from holdfast.identification.answers import Collection

app = make_app()

SHIPPED = "shipped"
_MEMBERS = 3  # of a class in a table


@app.command(epilog="Example: holdfast identify trace/ --against shipped --error 0.01   # or a folder of references")
def identify(
    trace: Annotated[Path, typer.Argument(help="Trace to explain, from holdfast run; or a server's answers.")],
    against: Annotated[
        str,
        typer.Option(help="Library of platforms, a folder of reference traces named after platforms, or: shipped."),
    ],
    level: Annotated[float, typer.Option(help="Probability that the named set of classes holds at least.")] = 0.99,
    error: Annotated[
        float | None,
        typer.Option(help="Test probe after probe with this bound on a wrong answer, and say when it could stop."),
    ] = None,
    trust: Annotated[
        list[str] | None,
        typer.Option(help="Who must have signed the trace or answers: a public key (PEM). Repeatable: all of them."),
    ] = None,
    json: Json = False,
) -> None:
    """Tell which known platform produced a trace, how surely, and by which evidence; exit 1 when none did.

    Of answers collected from a server it tells the number format of the head, and the platform where collections of
    the same prompts serve as references. What is signed must be as it was signed; --trust says by whom.
    """
    from holdfast.identification.answers import DESCRIPTION

    _require_as_signed(trace, trust)
    if (trace / DESCRIPTION).exists():
        known = _explain_answers(trace, against, level, error, json=json)
    else:
        known = _explain_trace(trace, against, level, error, json=json)
    if not known:
        raise typer.Exit(1)


def _explain_trace(path: Path, against: str, level: float, error: float | None, *, json: bool) -> bool:
    from holdfast.execution import Trace
    from holdfast.identification import Identifier

    _require_probabilities(level, error)
    seen = Trace.load(path)
    known = references(against, seen)
    identifier = Identifier(level=level).fit(known)
    answer = identifier.predict(seen)
    stopped = None if error is None else identifier.probe_by_probe(seen, error=error).beside(answer)
    for line in _lines(answer):
        say(line)
    if stopped is not None:
        say(_stop(stopped, len(seen.outputs)))
    if json:
        emit(_told(answer) | ({} if stopped is None else {"sequential": _told_stop(stopped)}))
    return answer.known


def _require_as_signed(folder: Path, trust: list[str] | None = None) -> None:
    """Refuse a folder that differs from its own signature, and one without the signatures that are asked for."""
    from holdfast.evidence.beside import PASSPORT

    if not trust and not (folder / PASSPORT).exists():
        return
    from holdfast.signing import require_threshold, verify_passport

    proof = verify_passport(folder, require_threshold(list(trust)) if trust else None)
    who = ", ".join(printable(str(signer)) for signer in proof.signers)
    say(f"signed: {folder} is as {who} signed it" if trust else f"signed: {folder} is as it was signed, by {who}")


def _require_probabilities(level: float, error: float | None) -> None:
    for name, value in (("level", level), ("error", error)):
        if value is not None and not 0 < value < 1:
            raise UsageError(
                f"--{name} is a probability between 0 and 1, not {value:g}",
                hint="--level 0.99" if name == "level" else "--error 0.01",
            )


def references(against: str, trace: Trace) -> list[tuple[str, Trace]]:
    """Return the labelled traces that ``against`` holds for ``trace``: the shipped library, another, or a folder."""
    from holdfast.execution import Trace as Stored
    from holdfast.identification.library import Library, shipped
    from holdfast.identification.library.files import DESCRIPTION

    if against == SHIPPED:  # a folder of that name is ./shipped, here as in holdfast platforms
        return shipped().references(trace)
    if (Path(against) / DESCRIPTION).exists():
        return Library.load(against).references(trace)
    folders = sorted(path.parent for path in Path(against).glob("*/trace.json"))
    if not folders:
        raise UsageError(
            f"{against} holds no reference traces",
            hint="holdfast platforms build -o LIBRARY, or holdfast run MODEL -o REFERENCES/NAME for each platform",
        )
    for path in folders:
        _require_as_signed(path)
    return [(path.name, Stored.load(path)) for path in folders]


def _explain_answers(path: Path, against: str, level: float, error: float | None, *, json: bool) -> bool:
    from holdfast.identification import ServedAnswers, head_of
    from holdfast.identification.answers import Collection

    _require_probabilities(level, error)
    seen, known = Collection.load(path), list(_collections(against, path))
    served = ServedAnswers(seen, known) if known else None
    head = head_of(seen) if served is None else served.head
    answer = None if served is None else served.identify(level=level)
    stopped = None
    if served is not None and answer is not None and error is not None:
        stopped = served.prompt_by_prompt(error=error).beside(answer)
    say(f"head: {head}; numbers {head.rounding_text}; {head.positions} positions of {head.answers} answers")
    if head.open:
        say("unlikely tokens would decide: collect again with --temperature 2 or --prompt-logprobs")
    if answer is None:
        say(f"{against} holds no other collection of answers: the number format is all there is to tell")
    for line in _lines(answer) if answer is not None else ():
        say(line)
    if stopped is not None:
        say(_stop(stopped, len(seen.prompts), "prompt"))
    if json:
        more = {} if stopped is None else {"sequential": _told_stop(stopped)}
        emit({"head": head.to_json()} | ({} if answer is None else _told(answer)) | more)
    return answer.known if answer is not None else head.told


def _collections(against: str, seen: Path) -> Iterator[tuple[str, Collection]]:
    from holdfast.identification.answers import DESCRIPTION, Collection
    from holdfast.identification.library.files import DESCRIPTION as LIBRARY

    if against == SHIPPED or (Path(against) / LIBRARY).exists():
        raise UsageError(
            f"{against} is a library of traces, and {seen} holds answers of a server",
            hint="answers are identified against a folder of collections: holdfast run URL -o COLLECTIONS/NAME",
        )
    if not Path(against).is_dir():
        raise UsageError(f"there is no folder {against}", hint="--against COLLECTIONS, with a folder for each platform")
    for path in sorted(Path(against).glob(f"*/{DESCRIPTION}")):
        if path.parent.resolve() != seen.resolve():
            _require_as_signed(path.parent)
            yield path.parent.name, Collection.load(path.parent)


def _lines(answer: Identification) -> Iterator[str]:
    head = ("class", "probability", "words equal", "median ULP")
    shown = [(_short(c.labels), _chance(c.probability), f"{c.equal_fraction:.2%}", f"{c.median_ulp:g}")
             for c in answer.candidates[:8]]  # fmt: skip
    yield from aligned([head, *shown, ("unknown", _chance(answer.unknown), "", "")])
    if len(answer.candidates) > len(shown):
        yield f"... and {len(answer.candidates) - len(shown)} classes that explain it less"
    for item in answer.evidence:
        yield f"{item.kind}: {item}" + (f" ({item.nats:+.1f} nats)" if item.nats else "")
    rival = answer.runner_up
    sure = "> 0.9999" if answer.confidence > 0.9999 else f"{answer.confidence:.4f}"
    yield f"platform: {answer.label}, confidence {sure}, decided by {answer.decided.kind}"
    if rival is not None:
        yield f"runner-up: {_class(rival.labels)}, probability {_chance(rival.probability)}"


def _class(labels: tuple[str, ...]) -> str:
    from holdfast.identification import one_of

    return one_of(labels)


def _short(labels: tuple[str, ...]) -> str:
    """Name a class within a column; what is left out is counted, and stands in full below and in the JSON."""
    if len(labels) <= _MEMBERS:
        return _class(labels)
    return f"one of {{{', '.join(labels[:_MEMBERS])}, +{len(labels) - _MEMBERS} more}}"


def _chance(value: float) -> str:
    return f"{value:.4g}" if value >= 1e-6 else "< 1e-6"


def _stop(decision: Decision, count: int, thing: str = "probe") -> str:
    if decision.labels == ("undecided",):
        asked = "all " if decision.asked == count else ""
        return f"{thing} by {thing}: undecided after {asked}{counted(decision.asked, thing)}"
    return f"{thing} by {thing}: {decision.label} after {decision.asked} of {counted(count, thing)}"


def _told(answer: Identification) -> dict[str, Any]:
    return {
        "platform": answer.label,
        "labels": list(answer.labels),
        "confidence": answer.confidence,
        "unknown": answer.unknown,
        "equal_fraction": answer.equal_fraction,
        "runner_up": None
        if answer.runner_up is None
        else {"labels": list(answer.runner_up.labels), "probability": answer.runner_up.probability},
        "decided": answer.decided.kind,
        "evidence": [{"kind": item.kind, "finding": str(item), "nats": item.nats} for item in answer.evidence],
        "grid": answer.grid,
        "rounding": {"kind": answer.rounding.kind, "places": answer.rounding.places},
        "classes": [{"labels": list(c.labels), "probability": c.probability, "equal_fraction": c.equal_fraction,
                     "median_ulp": c.median_ulp if c.median_ulp < 1e300 else None}
                    for c in answer.candidates],
    }  # fmt: skip


def _told_stop(decision: Decision) -> dict[str, Any]:
    return {"platform": decision.label, "asked": decision.asked, "confidence": decision.confidence}
