"""The sweep: every platform in a fresh process on every subject, kept as it goes, so a killed sweep goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from holdfast._registry import unknown
from holdfast.errors import InvalidConfig
from holdfast.execution import Progress, Trace
from holdfast.identification.library.machine import machine_of
from holdfast.identification.library.store import Library
from holdfast.identification.platforms import LISTED_BY, LOCAL_PLATFORMS, LocalPlatform
from holdfast.identification.platforms.devices import obstacle
from holdfast.identification.platforms.process import Case, traces_in_own_process
from holdfast.identification.probe_nets import PROBE_NETS, probe_inputs, probe_net

SLOW = "takes minutes: name it with --platform to run it"


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep did: names of platforms that ran, that were in the library already, and that cannot run here."""

    ran: tuple[str, ...]
    kept: tuple[str, ...]
    skipped: tuple[str, ...]


def probe_cases(count: int = 4) -> list[Case]:
    """Return the probe nets, each with the first ``count`` fixed inputs."""
    inputs = probe_inputs(count)
    return [Case(name, probe_net(name), inputs) for name in PROBE_NETS]


def chosen_platforms(wanted: Sequence[str] = (), skipped: Sequence[str] = ()) -> list[LocalPlatform]:
    """Return the local platforms that match a pattern of ``wanted`` (all, when there is none) and none of ``skipped``.

    Raises:
        UnknownName: a pattern that matches no platform.
    """
    for pattern in (*wanted, *skipped):
        if not any(fnmatchcase(name, pattern) for name in LOCAL_PLATFORMS):
            raise unknown("platform", pattern, LOCAL_PLATFORMS, listed_by=LISTED_BY)
    return [
        item
        for name, item in LOCAL_PLATFORMS.items()
        if any(fnmatchcase(name, pattern) for pattern in wanted or ("*",))
        and not any(fnmatchcase(name, pattern) for pattern in skipped)
    ]


def sweep(
    library: Library,
    cases: Sequence[Case],
    platforms: Iterable[LocalPlatform],
    *,
    named: Sequence[str] = (),
    save: Callable[[], None] | None = None,
    progress: Progress | None = None,
) -> Swept:
    """Trace every case on every platform and add what came out to ``library``.

    A platform that the library already has, for this machine and all cases, is not run again.

    Args:
        library: where it goes.
        cases: models with their probes.
        platforms: what to run.
        named: platforms that were asked for by name; slow ones run only then.
        save: called after every platform, from the first on that answered.
        progress: called with (done, total).

    Raises:
        InvalidConfig: no cases or platforms, two cases of one name, or a name that the library knows for another
            model or other probes.
    """
    items = list(platforms)
    if not items or not cases or len({case.name for case in cases}) < len(cases):
        raise InvalidConfig("a sweep needs platforms, and models under names of their own")
    for case in cases:
        library.require_same(case.name, case.model, case.probes)
    ran: list[str] = []
    kept: list[str] = []
    skipped: list[str] = []
    for done, platform in enumerate(items):
        machine = machine_of(platform)
        if library.has(platform.name, machine, [case.name for case in cases]):
            kept.append(platform.name)
        elif platform.slow and platform.name not in named and obstacle(platform) is None:
            if not library.answered(platform.name, machine):
                library.skip(platform.name, machine, SLOW)
            skipped.append(platform.name)
        else:
            (ran if _run(library, platform, cases) else skipped).append(platform.name)
            if save is not None and (ran or kept):  # a library in which nothing answered is none
                save()
        if progress is not None:
            progress(done + 1, len(items))
    return Swept(tuple(ran), tuple(kept), tuple(skipped))


def require_answers(library: Library, swept: Swept, subjects: Sequence[str]) -> None:
    """Raise :class:`InvalidConfig` when no platform of a sweep answered, now or before, with the reasons of each."""
    if swept.ran or swept.kept:
        return
    reasons: dict[str, list[str]] = {}
    for name in swept.skipped:
        told = [item for item in library.skipped if item.platform == name and item.subject in ("", *subjects)]
        for reason in {item.reason for item in told} or {SLOW}:  # of a slow one that answered others before, nothing
            reasons.setdefault(reason, []).append(name)
    first, *others = sorted(reasons, key=lambda reason: -len(reasons[reason]))
    more = f"; {len(others)} other reasons" if others else ""
    raise InvalidConfig(
        f"no platform ran, so there is nothing to keep: {first} ({len(reasons[first])} of them){more}"
        if len(swept.skipped) > 1
        else f"no platform ran, so there is nothing to keep: {swept.skipped[0]}: {first}",
        hint="nothing was written; see --shape, --platform and what the reason asks for",
    )


def _run(library: Library, platform: LocalPlatform, cases: Sequence[Case]) -> bool:
    """Run one platform on what is missing; return whether it answered anything."""
    machine = machine_of(platform)
    if (reason := obstacle(platform)) is not None:  # no process is started to be told so
        library.skip(platform.name, machine, reason)
        return False
    missing = [case for case in cases if not library.has(platform.name, machine, [case.name])]
    found = traces_in_own_process(platform, missing)
    traces = {name: item for name, item in found.items() if isinstance(item, Trace)}
    refused = {name: item for name, item in found.items() if not isinstance(item, Trace)}
    if platform.attention is not None and refused:
        traces = {}  # nets without attention answer all the same, as if nothing had been asked of it
    if traces:
        library.add(platform.name, machine, traces)
    reasons = {f"{error}" + (f" ({error.hint})" if error.hint else "") for error in refused.values()}
    if not library.answered(platform.name, machine) and len(reasons) == 1:  # it runs for nobody
        library.skip(platform.name, machine, reasons.pop())
        return False
    for name, error in refused.items():
        library.skip(platform.name, machine, str(error), name)
    return bool(traces)
