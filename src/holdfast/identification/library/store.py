"""The library: what known platforms answered to known probes, and which of them cannot be told apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from holdfast.data import Dataset
from holdfast.errors import InvalidConfig, UnreadableArtifact
from holdfast.execution import Trace
from holdfast.identification.library import files, reading
from holdfast.identification.library.classes import equivalence_classes
from holdfast.identification.library.records import Entry, EquivalenceClass, Machine, Skipped, Subject
from holdfast.models import manifest_of


class Library:
    """Reference traces of many platforms, machines and models in one folder.

    Attributes:
        machines: name to machine.
        entries: what each platform of each machine answered.
        skipped: what did not run, and why.
    """

    def __init__(self) -> None:
        self.machines: dict[str, Machine] = {}
        self._subjects: dict[str, Subject] = {}
        self._entries: dict[tuple[str, str], Entry] = {}
        self._skipped: dict[tuple[str, str, str], Skipped] = {}
        self._outputs: dict[str, Tensor] = {}

    @classmethod
    def load(cls, path: Path | str) -> Library:
        """Read a library from its folder; nothing in it is unpickled or imported.

        Raises:
            UnreadableArtifact: missing, truncated or malformed.
            UnsupportedVersion: a library of another version.
            DigestMismatch: bytes or labels that were changed after it was written.
        """
        body, outputs = files.read(Path(path))
        library = cls()
        try:
            library._fill(body, outputs)
        except InvalidConfig as error:
            raise UnreadableArtifact(f"{Path(path) / files.DESCRIPTION} is malformed: {error}") from error
        return library

    def save(self, path: Path | str) -> None:
        """Write the library; the same content always gives the same bytes. Raises ``StorageError``."""
        used = {digest for entry in self.entries for digest in entry.outputs.values()}
        files.write(Path(path), self._body(), {name: self._outputs[name] for name in sorted(used)})

    def subjects(self) -> tuple[Subject, ...]:
        """Return the models with their probes, by name."""
        return tuple(self._subjects[name] for name in sorted(self._subjects))

    @property
    def entries(self) -> tuple[Entry, ...]:
        """What each platform answered, by platform and machine."""
        return tuple(self._entries[key] for key in sorted(self._entries))

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """What did not run, by platform, machine and subject."""
        return tuple(self._skipped[key] for key in sorted(self._skipped))

    def labels(self) -> dict[tuple[str, str], str]:
        """Return (platform, machine) to label: the platform, and ``@`` its machine where several machines had it."""
        times = Counter(platform for platform, _ in self._entries)
        return {key: "@".join(key) if times[key[0]] > 1 else key[0] for key in sorted(self._entries)}

    def add(self, platform: str, machine: Machine, traces: Mapping[str, Trace]) -> None:
        """Keep the traces of one platform, by subject name; those of other subjects it has already stay.

        Raises:
            InvalidConfig: a subject of a known name with another model or other probes, or a name that is no label.
        """
        reading.require_label(platform)
        reading.require_machine(machine)
        for name, trace in traces.items():
            reading.require_line(name, "a subject")
            self._know(Subject(name, trace.model_digest, trace.probe_digest))
        key = (platform, machine.name)
        before = self._entries.get(key)
        digests = dict(before.outputs) if before else {}
        for name, trace in traces.items():
            digests[name] = files.output_digest(trace.outputs)
            self._outputs[digests[name]] = trace.outputs
            self._skipped.pop((*key, name), None)
        self.machines[machine.name] = machine
        described = next(iter(traces.values())).platform if traces else {}
        self._entries[key] = Entry(platform, machine.name, described, digests)
        self._skipped.pop((*key, ""), None)

    def skip(self, platform: str, machine: Machine, reason: str, subject: str = "") -> None:
        """Keep why a platform did not run, for one subject or for all; the reason becomes one line that prints.

        What is said of one subject replaces what was said of all.
        """
        reading.require_label(platform)
        self.machines[machine.name] = reading.require_machine(machine)
        line = "".join(letter if letter.isprintable() else " " for letter in " ".join(reason.split()))
        self._skipped.pop((platform, machine.name, ""), None)
        self._skipped[platform, machine.name, subject] = Skipped(platform, machine.name, line, subject)

    def merge(self, other: Library) -> int:
        """Add everything ``other`` knows and return by how many the joint classes grew.

        Raises:
            InvalidConfig: a subject of one name is another model or has other probes there.
        """
        before = len(self.classes())
        for subject in other.subjects():
            self._know(subject)
        for entry in other.entries:
            traces = {name: other._trace(entry, other._subjects[name]) for name in entry.outputs}
            self.add(entry.platform, other.machines[entry.machine], traces)
        for item in other.skipped:
            if not self._ran(item):
                self.skip(item.platform, other.machines[item.machine], item.reason, item.subject)
        return len(self.classes()) - before

    def references(self, trace: Trace) -> list[tuple[str, Trace]]:
        """Return label and trace of every platform that can be compared with ``trace``, which is to be explained.

        Raises:
            InvalidConfig: the library has no such model or not with these probes; which of them is said.
        """
        subject = self._subject_of(trace)
        labels = self.labels()
        found = [entry for entry in self.entries if subject.name in entry.outputs]
        return [(labels[entry.platform, entry.machine], self._trace(entry, subject)) for entry in found]

    def classes(self, subject: str | None = None) -> tuple[EquivalenceClass, ...]:
        """Return the classes of platforms with equal bits on one subject, or jointly on all of them.

        Raises:
            InvalidConfig: the library has no such subject.
        """
        if subject is not None and subject not in self._subjects:
            raise InvalidConfig(f"the library has no subject {subject!r}", hint=f"it has {', '.join(self._subjects)}")
        labels = self.labels()
        rows: dict[str, dict[str, str]] = {}
        for entry in self.entries:
            row = {name: value for name, value in entry.outputs.items() if subject in (None, name)}
            if row:
                rows[labels[entry.platform, entry.machine]] = row
        return equivalence_classes(rows)

    def answered(self, platform: str, machine: Machine) -> bool:
        """Whether a platform answered any subject."""
        return (platform, machine.name) in self._entries

    def has(self, platform: str, machine: Machine, subjects: Iterable[str]) -> bool:
        """Whether a platform answered, or is known not to take, all of these subjects."""
        entry = self._entries.get((platform, machine.name))
        given = entry.outputs if entry else {}
        return entry is not None and all(
            name in given or (platform, machine.name, name) in self._skipped for name in subjects
        )

    def _ran(self, item: Skipped) -> bool:
        """Whether there is an answer to what ``item`` says did not run."""
        entry = self._entries.get((item.platform, item.machine))
        return entry is not None and (not item.subject or item.subject in entry.outputs)

    def require_same(self, name: str, model: nn.Module, probes: Dataset) -> None:
        """Raise :class:`InvalidConfig` when the library knows ``name`` as another model or with other probes."""
        known = self._subjects.get(name)
        if known is not None:
            self._require_same(known, Subject(name, manifest_of(model).digest, probes.digest))

    def _trace(self, entry: Entry, subject: Subject) -> Trace:
        outputs = self._outputs[entry.outputs[subject.name]]
        return Trace(outputs, subject.probe_digest, subject.model_digest, dict(entry.described))

    def _count(self, subject: Subject) -> int:
        digests = (entry.outputs[subject.name] for entry in self.entries if subject.name in entry.outputs)
        return next((len(self._outputs[digest]) for digest in digests), 0)

    def _know(self, subject: Subject) -> None:
        self._require_same(self._subjects.setdefault(subject.name, subject), subject)

    def _require_same(self, known: Subject, subject: Subject) -> None:
        if known == subject:
            return
        other, count = "another model", self._count(known)
        if known.model_digest == subject.model_digest:
            other = f"other probes: {f'{count} of them, ' if count else ''}digest {known.probe_digest[:12]}"
        raise InvalidConfig(
            f"the library knows {subject.name} with {other}", hint="give it another name, or start a new library"
        )

    def _subject_of(self, trace: Trace) -> Subject:
        same = [item for item in self.subjects() if item.model_digest == trace.model_digest]
        found = next((item for item in same if item.probe_digest == trace.probe_digest), None)
        if found is not None:
            return found
        if same:
            counts = sorted({self._count(item) for item in same})
            raise InvalidConfig(
                f"the library knows this model as {same[0].name}, but with other probes than the trace's "
                f"{len(trace.outputs)}: it has {' or '.join(map(str, counts))}",
                hint=f"--probes {counts[0]} (fixed:{counts[0]} for the library's own nets), with the library's --seed",
            )
        names = ", ".join(item.name for item in self.subjects())
        raise InvalidConfig(
            f"the library has no trace of this model; it has {names or 'none at all'}",
            hint="add it with holdfast platforms build -o LIBRARY --model MODEL",
        )

    def _body(self) -> dict[str, Any]:
        return {
            "subjects": [item.to_json() for item in self.subjects()],
            "machines": {name: self.machines[name].to_json() for name in sorted(self.machines)},
            "entries": [item.to_json() for item in self.entries],
            "skipped": [item.to_json() for item in self.skipped],
        }

    def _fill(self, body: Mapping[str, Any], outputs: dict[str, Tensor]) -> None:
        subjects, machines, entries, skipped = reading.fields(body)
        for subject in map(reading.subject_from, subjects):
            self._know(subject)
        for machine in map(reading.machine_from, machines):
            self.machines[machine.name] = machine
        for entry in map(reading.entry_from, entries):
            if missing := [digest for digest in entry.outputs.values() if digest not in outputs]:
                raise InvalidConfig(f"{entry.platform} has no outputs {missing[0][:16]}")
            if unknown := [name for name in entry.outputs if name not in self._subjects]:
                raise InvalidConfig(f"{entry.platform} answered {unknown[0]}, which is no subject")
            self._entries[entry.platform, self._machine(entry)] = entry
        for item in map(reading.skipped_from, skipped):
            self._skipped[item.platform, self._machine(item), item.subject] = item
        self._outputs = outputs

    def _machine(self, item: Entry | Skipped) -> str:
        if item.machine not in self.machines:
            raise InvalidConfig(f"{item.platform} ran on {item.machine}, which is no machine")
        return item.machine
