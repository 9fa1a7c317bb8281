"""A folder of recordings: one trace for each platform, model and run, and beside it where it comes from."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import nn

from holdfast._files import read_bytes, write_atomic
from holdfast.data import Dataset
from holdfast.errors import DigestMismatch, InvalidConfig, UnreadableArtifact, UnsupportedVersion
from holdfast.evidence import canonical
from holdfast.evidence.digest import digest_bytes
from holdfast.execution import Progress, Trace
from holdfast.execution.fit import require_fit
from holdfast.identification.distribution.recordings import Recording
from holdfast.identification.emulated import emulated_trace
from holdfast.identification.platforms import LOCAL_PLATFORMS, trace_on
from holdfast.identification.settings import EmulatedSetting, Setting, platform_of

SOURCE_TYPE = "holdfast.recording/v1"


def record(
    model: nn.Module,
    probes: Dataset,
    platforms: Iterable[str],
    *,
    run: str = "run",
    progress: Progress | None = None,
) -> list[Recording]:
    """Record ``model`` on ``probes`` under settings of this machine or emulated formats, by name.

    ``bf16`` is a platform of this machine, ``emulated:bf16`` the number format alone.

    Raises:
        UnknownName: neither a local platform nor an emulated format.
        InvalidConfig: the model does not take the probes.
    """
    require_fit(model, probes)
    wanted, found = [platform_of(name) for name in platforms], []
    for done, setting in enumerate(wanted):
        if isinstance(setting, EmulatedSetting):
            trace = emulated_trace(setting.format.name, model, probes)
        else:
            trace = trace_on(setting, model, probes)
        found.append(Recording.of(_label(setting), trace, probes, run=run))
        if progress is not None:
            progress(done + 1, len(wanted))
    return found


def _label(setting: Setting) -> str:
    """Return the tag of an emulated format, as recordings are labelled, unless a platform of this machine has it."""
    if isinstance(setting, EmulatedSetting) and setting.format.name not in LOCAL_PLATFORMS:
        return setting.format.name
    return setting.name


def save_recordings(recordings: Iterable[Recording], folder: Path | str) -> None:
    """Write each to ``folder/RUN/MODEL/LABEL``.

    Raises:
        InvalidConfig: a run or label that is no name of a folder, or one that is there already.
    """
    for item in recordings:
        for name in (item.run, item.label):
            if not name or name in (".", "..") or "/" in name or "\\" in name:
                raise InvalidConfig(f"{name!r} is no name of a folder", hint="letters, digits and dashes")
        place = Path(folder) / item.run / item.model[:12] / item.label
        if (place / "trace.json").exists():
            raise InvalidConfig(f"{place} holds a recording already", hint="give this run another name")
        item.trace.save(place)
        write_atomic(place / "source.json", canonical.dumps(_source(item, place)))


def load_recordings(folder: Path | str) -> list[Recording]:
    """Read all recordings under ``folder``; a bare trace is labelled by its folder and is of the run above it.

    Raises:
        InvalidConfig: there are none.
        UnreadableArtifact: one cannot be read.
        UnsupportedVersion: a ``source.json`` of another version.
        DigestMismatch: a ``source.json`` that was written for another trace.
    """
    places = sorted(path.parent for path in Path(folder).rglob("trace.json"))
    if not places:
        raise InvalidConfig(f"{folder} holds no recordings", hint="make some with holdfast fingerprint record")
    return [_loaded(place, Path(folder)) for place in places]


def _loaded(place: Path, folder: Path) -> Recording:
    trace = Trace.load(place)
    if not (place / "source.json").exists():
        run = "/".join(place.parent.relative_to(folder).parts) if place != folder else ""
        return Recording.of(place.name, trace, run=run or "run")
    value = canonical.loads(read_bytes(place / "source.json", "recording"), what="source.json")
    if not isinstance(value, dict) or value.get("type") != SOURCE_TYPE:
        raise UnsupportedVersion(f"{place} holds no {SOURCE_TYPE}")
    if value.get("trace") != digest_bytes(read_bytes(place / "trace.json", "trace")):
        raise DigestMismatch(f"source.json in {place} was written for another trace")
    try:
        inputs = tuple(map(str, value["inputs"]))
        return Recording(str(value["label"]), trace, inputs, str(value["run"]), str(value["machine"]))
    except (KeyError, TypeError) as error:
        raise UnreadableArtifact(f"source.json in {place} lacks {error}") from error


def _source(item: Recording, place: Path) -> dict[str, Any]:
    return {
        "type": SOURCE_TYPE,
        "label": item.label,
        "run": item.run,
        "machine": item.machine,
        "inputs": list(item.inputs),
        "trace": digest_bytes(read_bytes(place / "trace.json", "trace")),
    }
