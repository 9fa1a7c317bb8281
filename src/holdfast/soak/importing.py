"""Files of experiments that others ran, whatever they are, as one record and tables of rows."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from holdfast._files import make_folder, read_bytes, write_atomic
from holdfast.errors import InvalidConfig, UnreadableArtifact, UsageError
from holdfast.evidence import canonical
from holdfast.evidence.digest import digest_bytes, digest_file
from holdfast.evidence.record import Record
from holdfast.evidence.statement import Subject
from holdfast.soak.analysis import Analysis, Arm, Pair, Spread, analyse
from holdfast.soak.counts import PUBLISHED, Counts, Table, published, read_counts
from holdfast.soak.log_lines import Line, parse_line
from holdfast.soak.logs import Log, read_log
from holdfast.soak.nvbitfi import Injection, Kind, looks_like_row, read_results, shares
from holdfast.soak.rates import Rate, cross_section, fit, mttf
from holdfast.soak.rows import ENCODERS

RATES, INJECTIONS = "event-rates", "injection-results"
_SNIFF = 1 << 16  # bytes read to tell what a file is


@dataclass(frozen=True)
class Imported:
    """Everything that the files said.

    ``analysis`` is None for NVBitFI results, which have no exposure; ``rows`` are the single events, ``arms`` the sums.
    """

    record: Record
    analysis: Analysis | None
    rows: tuple[Mapping[str, Any], ...]
    arms: tuple[Mapping[str, Any], ...]
    notes: tuple[str, ...]

    def save(self, folder: Path | str, *, format: str = "csv") -> list[Path]:
        """Write the record, and the rows and arms where there are any, into ``folder``; return what was written.

        Raises:
            MissingExtra: Parquet without pyarrow.
            StorageError: the disk refuses.
        """
        out = make_folder(folder)
        encode = ENCODERS[format]
        tables = {f"{name}.{format}": encode(rows) for name, rows in (("rows", self.rows), ("arms", self.arms)) if rows}
        written = {f"{self.record.kind}.json": self.record.to_bytes(), **tables}
        for name, data in written.items():
            write_atomic(out / name, data)
        return [out / name for name in written]


def import_logs(
    paths: Iterable[Path | str],
    *,
    flux: float | None = None,
    fluence: float | None = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> Imported:
    """Read libLogHelper logs, tables of counts, or NVBitFI results, and analyse them.

    Args:
        paths: files, folders (everything in them that is one of these), or ``published:NAME``.
        flux: n/(cm2 s) above 10 MeV in the beam; with it, cross-sections, FIT and MTTF at sea level.
        fluence: n/cm2 over the exposure of the only arm there is, instead of a flux.
        confidence: of all intervals.
        seed: of dispersion tests on small counts.

    Raises:
        UnreadableArtifact: a file that is none of these, or a folder without any.
        UsageError: logs and injection results in one call, which have no common scale; or a fluence of many arms.
    """
    found = [path for item in paths for path in _files(item)]
    digests = {_label(path, found): digest_file(path).blake3 for path in found}
    kinds = {path: _kind(path) for path in found}
    if "nvbitfi" in kinds.values():
        if set(kinds.values()) != {"nvbitfi"}:
            raise UsageError(
                "logs have rates and injection results have shares", hint="import them one after the other"
            )
        return _injections(found, digests, confidence)
    logs, copies = _without_copies([read_log(path) for path, kind in kinds.items() if kind == "log"])
    tables = [read_counts(path) for path, kind in kinds.items() if kind == "counts"]
    how = {"flux": flux, "fluence": fluence, "confidence": confidence, "seed": seed}
    return _rates(logs, tables, digests, how, copies)


def _files(item: Path | str) -> Iterator[Path]:
    if str(item).startswith(PUBLISHED):
        yield published(str(item).removeprefix(PUBLISHED))
        return
    path = Path(item)
    if not path.is_dir():
        yield path
        return
    inside = [file for file in sorted(path.rglob("*")) if file.is_file() and file.suffix in (".log", ".txt")]
    wanted = [file for file in inside if _sniff(file) is not None]
    if not wanted:
        raise UnreadableArtifact(f"{path} holds no log", hint="logs end in .log, NVBitFI results in .txt")
    yield from wanted


def _label(path: Path, all_paths: Sequence[Path]) -> str:
    """Return the file's name, or its path where another file has the same name."""
    return path.name if sum(other.name == path.name for other in all_paths) == 1 else path.as_posix()


def _kind(path: Path) -> str:
    if path.suffix in (".csv", ".toml"):
        return "counts"
    kind = _sniff(path)
    if kind is None:
        hint = "libLogHelper logs, NVBitFI results, or tables of counts (.csv, .toml)"
        raise UnreadableArtifact(f"{path} is neither a log nor a results file", hint=hint)
    return kind


def _sniff(path: Path) -> str | None:
    lines = read_bytes(path, "log", prefix=_SNIFF).split(b"\n")
    if any(isinstance(parse_line(line), Line) for line in lines):
        return "log"
    return "nvbitfi" if any(looks_like_row(line.decode("utf-8", "replace")) for line in lines) else None


def _without_copies(logs: Sequence[Log]) -> tuple[list[Log], int]:
    """Drop the copies that a supervisor or the program keeps of the same run; the one that tells more is kept."""
    best: dict[str, Log] = {}
    for log in logs:
        key = log.fingerprint or str(log.path)
        if key not in best or _told(log) > _told(best[key]):
            best[key] = log
    return list(best.values()), len(logs) - len(best)


def _told(log: Log) -> tuple[int, bool, float]:
    return len(log.dues), log.ending != "cut", -log.unseen


def _tool() -> dict[str, str]:
    return {"name": "holdfast", "version": version("holdfast")}


def _subject(digests: Mapping[str, str]) -> Subject:
    """Name all files together: one file by its own digest, several by that of their list."""
    name = next(iter(digests)) if len(digests) == 1 else f"{len(digests)} files"
    whole = next(iter(digests.values())) if len(digests) == 1 else digest_bytes(canonical.dumps(dict(digests)))
    return Subject(name, {"blake3": whole})


def _rates(
    logs: Sequence[Log], tables: Sequence[Table], digests: dict[str, str], how: Mapping[str, Any], copies: int
) -> Imported:
    rows = [log.counts for log in logs] + [row for table in tables for row in table.rows]
    timed = [row for row in rows if row.seconds + row.unseen > 0]
    if not timed:
        raise InvalidConfig("no log tells any exposure", hint="a run that ended before its first #IT has none")
    analysis = analyse(timed, confidence=how["confidence"], seed=how["seed"])
    flux = how["flux"] if how["fluence"] is None else _flux(analysis, how["fluence"])
    repeated = f"{copies} logs tell of the same runs as others (a supervisor's copy) and are left out"
    notes = (*([repeated] if copies else []), *_notes(logs, rows), *(note for table in tables for note in table.notes))
    record = Record(
        kind=RATES,
        subject=_subject(digests),
        procedure={"type": RATES, "version": 1, "flux": flux, "confidence": how["confidence"]},
        measured=analysis.measurements(),
        inputs=digests,
        facts=_facts(analysis, flux, notes, [table.source for table in tables if table.source]),
        seed=how["seed"],
        tool=_tool(),
    )
    return Imported(record, analysis, tuple(_events(logs)), tuple(row.to_json() for row in rows), notes)


def _flux(analysis: Analysis, fluence: float) -> float:
    if len(analysis.arms) != 1:
        raise UsageError(f"a fluence belongs to one arm, and there are {len(analysis.arms)}", hint="give the flux")
    return fluence / (analysis.arms[0].seconds + analysis.arms[0].unseen / 2)


def _facts(analysis: Analysis, flux: float | None, notes: Sequence[str], sources: Sequence[str]) -> dict[str, Any]:
    return {
        "arms": [_arm_facts(arm, flux) for arm in analysis.arms],
        "pairs": [_pair_facts(pair) for pair in analysis.pairs],
        "dispersion": [_spread_facts(spread, analysis.wider(spread)) for spread in analysis.spreads],
        "pooled": [_plain(asdict(pool)) for pool in analysis.pools],
        "notes": list(notes),
        "sources": list(sources),
    }


def _plain(value: Any) -> Any:
    """Return JSON values; infinities and NaN, which JSON lacks, become null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _arm_facts(arm: Arm, flux: float | None) -> dict[str, Any]:
    facts = asdict(arm)
    if flux is not None:
        rates = {"sdc": arm.sdc, "critical": arm.critical, "due": arm.due}
        facts["failures"] = {name: _failures(rate, flux) for name, rate in rates.items() if rate is not None}
    plain: dict[str, Any] = _plain(facts)
    return plain


def _failures(rate: Rate, flux: float) -> dict[str, Any]:
    sigma = cross_section(rate, flux)
    failures = fit(sigma)
    ends = {name: [item.value, item.low, item.high] for name, item in (("cross_section_cm2", sigma), ("fit", failures))}
    return {**ends, "mttf_hours": list(mttf(failures))}


def _pair_facts(pair: Pair) -> dict[str, Any]:
    plain: dict[str, Any] = _plain({**asdict(pair), "verdict": pair.verdict})
    return plain


def _spread_facts(spread: Spread, wider: tuple[float, float] | None) -> dict[str, Any]:
    plain: dict[str, Any] = _plain({**asdict(spread), "over": spread.over, "wider_sdc": wider})
    return plain


def _notes(logs: Sequence[Log], rows: Sequence[Counts]) -> Iterator[str]:
    """Say what a reader of the numbers has to know about the files."""
    endings = Counter(log.ending for log in logs)
    if endings["cut"]:
        stop = "just stop, without #END and without the supervisor's word: not counted as DUE"
        yield f"{endings['cut']} of {len(logs)} logs {stop}"
    if dark := [row for row in rows if row.seconds + row.unseen == 0]:
        yield f"{len(dark)} logs tell no exposure and are left out, with {sum(row.due or 0 for row in dark)} DUE"
    if lost := sum(log.lost for log in logs):
        yield f"{lost} errors were counted by the program and no #SDC line shows them: lines got lost"
    if unread := sum(len(log.unread) for log in logs):
        first = next(item for log in logs for item in log.unread)
        where = next(log.path.name for log in logs if log.unread)
        yield f"{unread} lines were not understood, the first in {where}, line {first.number}: {first.why}"
    if aborts := sum(log.aborts for log in logs):
        yield f"{aborts} runs ended themselves (#ABORT) after errors: the restarts that followed are no DUE"
    if any(row.due is None for row in rows):
        yield "nobody counted DUE in these tables"


def _events(logs: Sequence[Log]) -> Iterator[dict[str, Any]]:
    for log in logs:
        for event in log.corruptions:
            yield {"log": log.path.name, "subject": log.subject, "arm": log.arm, **asdict(event)}


def _injections(paths: Sequence[Path], digests: dict[str, str], confidence: float) -> Imported:
    rows: list[Injection] = []
    notes: list[str] = []
    for path in paths:
        found, unread = read_results(path)
        rows.extend(found)
        if unread:
            notes.append(f"{len(unread)} lines of {path.name} were not understood, the first line {unread[0].number}")
    kinds = Counter(str(row.kind) for row in rows)
    if missing := kinds[Kind.NOT_INJECTED]:
        notes.append(f"{missing} of {len(rows)} runs injected nothing and are no trials")
    measured = {name: share.measurement() for name, share in shares(rows, confidence).items()}
    record = Record(
        kind=INJECTIONS,
        subject=_subject(digests),
        procedure={"type": INJECTIONS, "version": 1, "confidence": confidence},
        measured=measured,
        inputs=digests,
        facts={"counts": dict(sorted(kinds.items())), "kernels": _kernels(rows), "notes": notes},
        tool=_tool(),
    )
    return Imported(record, None, tuple(asdict(row) for row in rows), (), tuple(notes))


def _kernels(rows: Sequence[Injection]) -> dict[str, dict[str, int]]:
    found: dict[str, Counter[str]] = {}
    for row in rows:
        found.setdefault(row.kernel, Counter())[str(row.kind)] += 1
    return {kernel: dict(sorted(counts.items())) for kernel, counts in sorted(found.items())}
