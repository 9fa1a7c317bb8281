"""Platform classes of one machine: how many there are, and how often a fresh process is named by at most four probes.

Three sweeps of all local platforms, each platform in a process of its own each time. The first is the reference; every
process of the others is an unknown to be named, per net from the four probes of that net, and jointly by a decision
tree that asks at most four (net, probe) questions. Then every class is held out once: naming anything but *unknown* is
a false accept. Beside it: what the number format alone, read from trailing zeros, would name with the best guess
within each format. Intervals are Clopper-Pearson at 95 %; answers of one process on six nets are not independent, so
the number of processes stands beside the number of answers.

Sweeping takes about four CPU-minutes a run; ``--library`` (repeatable, first the reference) takes sweeps made before.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from benchmarks import _harness
from holdfast.execution import Trace
from holdfast.identification import UNKNOWN, Identifier, dtype_from_outputs, probe_tree
from holdfast.identification.library import Library
from holdfast.identification.library.files import output_digest

RUNS = 3
ASKED = ("torch", "numpy", "onnxruntime")  # runtimes that the bar of thirty classes counts
_REFUSED = "refused"  # the answer of a platform that does not run a net
Known = list[tuple[str, Trace]]


def sweeps(folder: Path) -> list[Library]:
    """Build one library after another with the command that users have."""
    places = [folder / f"run-{index}" for index in range(RUNS)]
    for place in places:
        code = "from holdfast.cli import main; raise SystemExit(main())"
        command = [sys.executable, "-c", code, "platforms", "build", "-o", str(place)]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    return [Library.load(place) for place in places]


def counts(library: Library) -> dict[str, Any]:
    """Count classes per net, per runtime and jointly; those of the asked runtimes are counted by themselves."""
    joint = library.classes()
    runtimes = {entry.platform: entry.machine for entry in library.entries}
    first = {name: next(iter(library.machines[place].versions)) for name, place in runtimes.items()}
    asked = [item for item in joint if any(first[label] in ASKED for label in item.labels)]
    return {
        "platforms": len(library.entries),
        "classes": len(joint),
        "classes of torch, numpy and onnxruntime": len(asked),
        "per net": {item.name: len(library.classes(item.name)) for item in library.subjects()},
        "per runtime": {
            runtime: sum(any(first[label] == runtime for label in item.labels) for item in joint)
            for runtime in sorted(set(first.values()))
        },
        "members": [list(item.labels) for item in joint],
    }


def agreement(runs: Sequence[Library]) -> dict[str, Any]:
    """Compare the outputs that every two runs both have, bit by bit."""
    equal = []
    for one, other in combinations(runs, 2):
        rows = {entry.platform: entry.outputs for entry in other.entries}
        both = [entry for entry in one.entries if entry.platform in rows]
        equal += [rows[e.platform].get(net) == digest for e in both for net, digest in e.outputs.items()]
    return {"platforms per run": [len(run.entries) for run in runs], "equal outputs": _harness.share(equal)}


def traces(library: Library, net: str) -> Known:
    """Return label and trace of every platform on one net."""
    subject = next(item for item in library.subjects() if item.name == net)
    empty = Trace(None, subject.probe_digest, subject.model_digest, {})  # type: ignore[arg-type]
    return library.references(empty)


def first_probes(known: Known, count: int) -> Known:
    """Keep the answers to the first probes only."""
    return [(label, replace(trace, outputs=trace.outputs[:count])) for label, trace in known]


def named(runs: Sequence[Library], nets: Sequence[str], probes: int) -> dict[str, Any]:
    """Name every fresh process on every net; right is the class that the platform is in, and nothing beside it."""
    right, rejected = [], []
    for net in nets:
        known = first_probes(traces(runs[0], net), probes)
        classes, fitted = merged(known), Identifier().fit(known)
        for fresh in runs[1:]:
            for label, trace in first_probes(traces(fresh, net), probes):
                found = answer(fitted.predict(trace))
                right.append(found == classes[label])
                rejected.append(UNKNOWN in found)
    processes = sum(len(run.entries) for run in runs[1:])
    return {
        "probes": probes,
        "fresh processes": processes,
        "right": _harness.share(right),
        "rejected": _harness.share(rejected),
    }


def answer(found: Any) -> frozenset[str]:
    """Return the platforms an answer names: a matcher joins merged labels, or lists several classes."""
    return frozenset(part for label in found.labels for part in label.split(" = "))


def merged(known: Known) -> dict[str, frozenset[str]]:
    """Return label to all labels with the same answers."""
    digests = {label: output_digest(trace.outputs) for label, trace in known}
    return {label: frozenset(x for x, value in digests.items() if value == mine) for label, mine in digests.items()}


def held_out(runs: Sequence[Library], nets: Sequence[str], probes: int) -> dict[str, Any]:
    """Take each class of each net out of the references once, and present it as a fresh process recorded it."""
    accepted, cases = [], []
    for net in nets:
        known = first_probes(traces(runs[0], net), probes)
        fresh = dict(first_probes(traces(runs[1], net), probes))
        for members in sorted(set(merged(known).values()), key=sorted):
            label = min(members & fresh.keys(), default=None)
            if label is None:
                continue  # no later run has it, so there is nothing fresh to present
            rest = [item for item in known if item[0] not in members]
            found = answer(Identifier().fit(rest).predict(fresh[label]))
            accepted.append(UNKNOWN not in found)
            if UNKNOWN not in found:
                cases.append(f"{net}: {label} taken for {min(found)}")
    return {"probes": probes, "false accepts": _harness.share(accepted), "cases": cases}


def by_tree(runs: Sequence[Library]) -> dict[str, Any]:
    """Name the joint class of every fresh process with the fewest (net, probe) questions, and hold each class out."""
    rows = [question_rows(run) for run in runs]
    classes = {item.name: item.labels for item in runs[0].classes()}
    questions = sorted({key for row in rows[0].values() for key in row})
    table = {name: [rows[0][labels[0]].get(key, _REFUSED) for key in questions] for name, labels in classes.items()}
    tree = probe_tree(table)
    of = {label: name for name, labels in classes.items() for label in labels}
    fresh = [(label, [row.get(key, _REFUSED) for key in questions]) for run in rows[1:] for label, row in run.items()]
    right = [tree.follow(answers)[0] == (of[label],) for label, answers in fresh]
    accepted = []
    for name in table:
        label = min((item for item in classes[name] if item in rows[1]), default=None)
        if label is None:
            continue
        rest = probe_tree({other: row for other, row in table.items() if other != name})
        accepted.append(bool(rest.follow([rows[1][label].get(key, _REFUSED) for key in questions])[0]))
    return {
        "questions in the worst case": tree.worst,
        "optimal": tree.optimal,
        "different questions": [f"{net} {probe}" for net, probe in (questions[k] for k in tree.asked)],
        "right": _harness.share(right),
        "false accepts by the tree alone": _harness.share(accepted),
    }


def on_all_nets(runs: Sequence[Library]) -> dict[str, Any]:
    """Name the joint class from four probes of every net: a platform must be among the answers of each one."""
    nets = [item.name for item in runs[0].subjects()]
    known = {net: traces(runs[0], net) for net in nets}
    fresh = [dict(traces(run, net)) for run in runs[1:] for net in nets]
    asked = [fresh[start : start + len(nets)] for start in range(0, len(fresh), len(nets))]
    classes = [frozenset(item.labels) for item in runs[0].classes()]
    of = {label: members for members in classes for label in members}
    right = [consistent(known, frozenset(), rows, label) == of[label] for rows in asked for label in rows[0]]
    tried = [(members, min(members & asked[0][0].keys(), default=None)) for members in classes]
    accepted = [bool(consistent(known, members, asked[0], label)) for members, label in tried if label is not None]
    return {"right": _harness.share(right), "false accepts": _harness.share(accepted), "probes": 4 * len(nets)}


def consistent(
    known: dict[str, Known], without: frozenset[str], rows: Sequence[dict[str, Trace]], label: str
) -> frozenset[str]:
    """Return the platforms, but for those left out, that the nearest match on every net names."""
    found: list[frozenset[str]] = []
    for net, row in zip(known, rows, strict=True):
        rest = [item for item in known[net] if item[0] not in without]
        if label in row:
            named = answer(Identifier().fit(rest).predict(row[label]))
            found.append(frozenset() if UNKNOWN in named else named)
    return frozenset.intersection(*found)


def question_rows(library: Library) -> dict[str, dict[tuple[str, int], str]]:
    """Return, for every platform, (net, probe) to the digest of that one answer."""
    rows: dict[str, dict[tuple[str, int], str]] = {}
    for subject in library.subjects():
        for label, trace in traces(library, subject.name):
            for probe, words in enumerate(trace.outputs):
                rows.setdefault(label, {})[subject.name, probe] = output_digest(words[None])
    return rows


def by_format(library: Library, nets: Sequence[str]) -> float:
    """Expected share of right names when only the format of the words is read and the rest is guessed."""
    shares = []
    for net in nets:
        known = traces(library, net)
        classes = sorted(set(merged(known).values()), key=sorted)
        tables = dict(known)
        formats = [dtype_from_outputs(tables[min(members)].outputs).dtype for members in classes]
        shares += [1 / formats.count(item) for item in formats]
    return sum(shares) / len(shares)


def measure(runs: Sequence[Library]) -> dict[str, Any]:
    """Return all figures; the claim is the share of fresh processes named right from four probes of one net."""
    nets, later = [item.name for item in runs[0].subjects()], Library()
    for run in runs[1:]:
        later.merge(run)
    rows = [named(runs, nets, probes) for probes in (1, 2, 4)]
    ours, peer = rows[-1]["right"], by_format(runs[0], nets)
    result = _harness.Result(
        claim="classes of fresh processes named right from four probes of one net",
        ours=ours["value"], peer=peer, unit="share", ratio=ours["value"] / peer,
        low=ours["low"] / peer, high=ours["high"] / peer, n=int(ours["n"]),
        peer_name="the number format alone", machine=_harness.machine(),
    )  # fmt: skip
    more = {
        "counts": counts(runs[0]),
        "agreement": agreement(runs),
        "named": rows,
        "by tree": by_tree([runs[0], later]),
    }
    more["on all nets"] = on_all_nets([runs[0], later])
    return asdict(result) | more | {"held out": [held_out([runs[0], later], nets, probes) for probes in (1, 4)]}


def lines(result: dict[str, Any]) -> Iterator[str]:
    """Yield the figures for people."""
    found = result["counts"]
    yield f"{found['platforms']} platforms, {found['classes']} classes: {found['per net']}, {found['per runtime']}"
    yield f"  of torch, numpy and onnxruntime: {found['classes of torch, numpy and onnxruntime']}"
    yield f"runs agree: {result['agreement']}"
    yield from (f"named: {row}" for row in result["named"])
    yield f"jointly, by a tree of questions: {result['by tree']}"
    yield f"jointly, on all nets: {result['on all nets']}"
    yield from (f"held out: {row}" for row in result["held out"])
    yield f"format alone: {result['peer']:.3f}"


def main() -> None:
    """Run as a command: lines for people, or one JSON object with ``--json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--library", action="append", type=Path, help="a sweep made before; three of them or more")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        runs = [Library.load(item) for item in given.library] if given.library else sweeps(Path(place))
    result = measure(runs)
    print(json.dumps(result, sort_keys=True) if given.json else "\n".join(lines(result)))


if __name__ == "__main__":
    main()
