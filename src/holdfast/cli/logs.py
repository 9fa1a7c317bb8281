"""``holdfast logs``."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from holdfast.cli._common import Json, Seed, aligned, emit, make_app, say
from holdfast.errors import UsageError

if TYPE_CHECKING:
    from holdfast.soak import Analysis, Imported
    from holdfast.soak.analysis import Arm, Pair, Pool
    from holdfast.soak.rates import Change, Rate

app = make_app()
_EXAMPLE = "Example: holdfast logs import logs/ --flux 5e6 -o beam/"


@app.callback(epilog=_EXAMPLE)
def logs() -> None:
    """Read the logs of reliability experiments: beam runs, soak runs, NVBitFI results."""


@app.command(
    "import", epilog=f"{_EXAMPLE}\n\nExample: holdfast logs import published:december-2023 --json > december.json"
)
def import_(
    paths: Annotated[
        list[str], typer.Argument(help="Logs, folders of logs, tables (.csv, .toml), NVBitFI results, published:NAME.")
    ],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for the record and the rows.")] = None,
    format: Annotated[Literal["csv", "parquet"], typer.Option(help="Of the rows.")] = "csv",
    flux: Annotated[float | None, typer.Option(help="In the beam, n/(cm2 s): gives cross-sections, FIT, MTTF.")] = None,
    fluence: Annotated[
        float | None, typer.Option(help="Of one arm's whole exposure, n/cm2, instead of a flux.")
    ] = None,
    confidence: Annotated[float, typer.Option(help="Of the intervals, 0..1.")] = 0.95,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Turn logs into rates with intervals, compare hardened arms with their base, and test whether counts cluster.

    Reads libLogHelper logs, as the program or as its supervisor wrote them, NVBitFI result rows, and tables of counts.
    Exposure runs to the last timed line of a log, not to its last SDC.
    """
    from holdfast.soak import import_logs

    if flux is not None and fluence is not None:
        raise UsageError("--flux and --fluence contradict each other", hint="a fluence is flux times exposure")
    found = import_logs(paths, confidence=confidence, flux=flux, fluence=fluence, seed=seed)
    for line in _table(found):
        say(line)
    if out is not None:
        say(f"written: {', '.join(path.name for path in found.save(out, format=format))} in {out}")
    if json:
        emit(found.record)


def _table(found: Imported) -> Iterator[str]:
    if found.analysis is None:
        for name, item in found.record.measured.items():
            yield f"{name:<18} {item.value:.4%}  [{item.low:.4%}, {item.high:.4%}]  n = {item.n}"
    else:
        yield from _analysis(found.analysis)
        yield from _sea_level(found)
    yield from (f"note: {note}" for note in found.notes)


def _analysis(analysis: Analysis) -> Iterator[str]:
    level = f"{analysis.confidence:.0%}"
    head = ("per 1000 s", "arm", "logs", "exposed s", "SDC", "critical", f"rate [{level}]", "DUE")
    yield from aligned([head, *map(_arm_row, analysis.arms)])
    if analysis.pairs:
        titles = ("against base", "arm", f"critical [{level}]", "p", "Holm", "", "all SDC")
        yield from aligned([titles, *map(_pair_row, analysis.pairs)])
    yield from _spreads(analysis)
    yield from _pools(analysis.pools)


def _arm_row(arm: Arm) -> tuple[str, ...]:
    due = "not counted" if arm.due is None else f"{arm.due.events}  {_interval(arm.due)}"
    sdc = str(arm.sdc.events) + ("" if arm.episodes is None else f" in {arm.episodes} episodes")
    return (
        arm.subject, arm.arm, str(arm.sessions), _seconds(arm.seconds), sdc, str(arm.critical.events),
        _interval(arm.critical), due,
    )  # fmt: skip


def _seconds(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _interval(rate: Rate) -> str:
    value, low, high = (f"{1e3 * item:.3g}" for item in (rate.value, rate.low, rate.high))
    return f"{value} [{low}, {high}]"


def _pair_row(pair: Pair) -> tuple[str, ...]:
    verdict = {"better": "better", "worse": "SIGNIFICANTLY WORSE", "undecided": "undecided"}[pair.verdict]
    p, adjusted = f"{pair.critical.p:.2g}", f"{pair.adjusted:.2g}"
    return pair.subject, pair.arm, _change(pair.critical), p, adjusted, verdict, _factor(pair.sdc)


def _change(change: Change) -> str:
    return f"{_percent(change.value)} [{_percent(change.low)}, {_percent(change.high)}]"


def _percent(value: float) -> str:
    return f"{value:+.1%}" if math.isfinite(value) else ("no base event" if value > 0 else "-")


def _factor(change: Change) -> str:
    factor = change.value + 1
    return f"x{factor:.2g}" if math.isfinite(factor) else "-"


_BASES = {
    "logs": "between its logs",
    "sessions": "between its sessions",
    "arms": "between its arms, if hardening turns errors harmless and prevents none: all such a table can test",
}


def _spreads(analysis: Analysis) -> Iterator[str]:
    for item in sorted(analysis.spreads, key=lambda spread: -spread.test.index):
        if item.over:
            index, adjusted = f"{item.test.index:.1f}", f"{item.adjusted:.1g}"
            name = f"{item.subject}{', ' if item.arm else ''}{item.arm}"
            yield f"over-dispersed: {name}: the SDC rate varies {index} times more than Poisson (p = {adjusted}),"
            wider = analysis.wider(item)
            allowed = (
                "" if wider is None else f": allowing for it, [{1e3 * wider[0]:.3g}, {1e3 * wider[1]:.3g}] per 1000 s"
            )
            yield f"  {_BASES[item.test.basis]}; its intervals are too narrow{allowed}"


def _pools(pools: Sequence[Pool]) -> Iterator[str]:
    for whole in (pool for pool in pools if not pool.without):
        yield f"pooled, {whole.arm}: critical {_change(whole.change)}, p = {whole.change.p:.2g}"
        rest = [pool for pool in pools if pool.without and pool.arm == whole.arm]
        other = max(rest, key=lambda pool: abs(pool.change.value - whole.change.value))
        share = 1 - other.base[0] / whole.base[0] if whole.base[0] else 0.0
        yield (
            f"pooled without {other.without}: {_change(other.change)}, p = {other.change.p:.2g} "
            f"(it alone has {share:.0%} of the base's critical events)"
        )


def _sea_level(found: Imported) -> Iterator[str]:
    rows = [
        (arm["subject"], arm["arm"], name, *(_three(values[key]) for key in ("cross_section_cm2", "fit", "mttf_hours")))
        for arm in found.record.facts["arms"]
        for name, values in arm.get("failures", {}).items()
    ]
    if rows:
        yield from aligned([("at sea level", "arm", "", "cross-section cm2", "FIT", "MTTF h"), *rows])


def _three(values: Sequence[float | None]) -> str:
    value, low, high = ("inf" if item is None else f"{item:.3g}" for item in values)
    return f"{value} [{low}, {high}]"
