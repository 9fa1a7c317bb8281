"""Writing the steps of a model's history beside it, signed or not."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import machine, system

from holdfast._files import read_bytes, write_atomic
from holdfast.errors import InvalidConfig
from holdfast.evidence.beside import LINEAGE
from holdfast.evidence.digest import digest_bytes
from holdfast.evidence.lineage import Step, outputs_of
from holdfast.evidence.provenance import MODEL_ID, Provenance, Resource, of_step
from holdfast.evidence.statement import Statement, Subject
from holdfast.signing.bundle import sign_statement
from holdfast.signing.lineage.stored import DESCRIPTION, identify, stored_steps
from holdfast.signing.signers.protocol import Signer

PACKAGES = ("blake3", "cryptography", "numpy", "safetensors", "torch")
_OURS = re.compile(r"\d{4}-[a-z0-9-]+(\.bundle)?\.json")
_KIND = re.compile(r"[a-z][a-z0-9-]{0,63}")
_LIMIT = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """What a process knows of the steps it did, beyond what the model keeps.

    Attributes:
        started, finished: RFC 3339, UTC; empty where unknown.
        known: further names and digests of what went in.
        byproducts: what else came out: metrics, the head of the checkpoint chain.
    """

    started: str = ""
    finished: str = ""
    known: tuple[Resource, ...] = ()
    byproducts: tuple[Resource, ...] = ()


def now() -> str:
    """Return the time as RFC 3339 in UTC, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def environment() -> dict[str, object]:
    """Return what computes here: interpreter, system and machine."""
    return {"python": ".".join(map(str, sys.version_info[:3])), "system": system(), "machine": machine()}


def packages(names: Iterable[str] = PACKAGES) -> tuple[Resource, ...]:
    """Return the installed versions of packages, as package URLs."""
    found = []
    for name in names:
        try:
            found.append(Resource(name, uri=f"pkg:pypi/{name}@{version(name)}"))
        except PackageNotFoundError:
            continue
    return tuple(found)


def holdfast_version() -> dict[str, str]:
    """Return the version of the builder."""
    return {"holdfast": version("holdfast")}


def invocation(made: Provenance, subject: Subject) -> str:
    """Return an id of one build: the digest of all that is known of it."""
    return digest_bytes(replace(made, invocation="").statement(subject).to_bytes())


def write_steps(
    folder: Path | str,
    signer: Signer | None = None,
    *,
    source: Path | str | None = None,
    circumstances: Circumstances | None = None,
) -> list[Path]:
    """Write what was done to get the artifact in ``folder`` as ``lineage/NNNN-kind.json``, or as a signed bundle.

    The steps that ``source``, the artifact it was made from, had already are not told again: its statements are copied
    as they are, since who did a later step cannot vouch for an earlier one.

    Args:
        folder: artifact with a ``model.json``.
        signer: signs each step, as ``lineage/NNNN-kind.bundle.json``; without it they are documents, and no evidence.
        source: the artifact that the steps began with; None when nothing stood there.
        circumstances: of the last step.

    Returns:
        what was written, without what was copied.
    """
    folder, steps, subject = Path(folder), stored_steps(folder), identify(folder)
    adopt(folder, source)
    earlier = len(stored_steps(source)) if source is not None and (Path(source) / DESCRIPTION).is_file() else 0
    outputs = outputs_of(steps, subject.digest["blake3"])
    written = []
    for number in range(earlier, len(steps)):
        if not outputs[number]:
            continue
        last = number == len(steps) - 1
        about = subject if last else Subject("model", {"blake3": outputs[number]})
        made = _provenance(steps[number], (circumstances or Circumstances()) if last else Circumstances())
        written.append(write_step(folder, made, about, signer))
    return written


def write_step(folder: Path | str, made: Provenance, about: Subject, signer: Signer | None = None) -> Path:
    """Write one step into ``folder/lineage``: as a bundle when there is a signer, as a bare document otherwise.

    Raises:
        InvalidConfig: the build type is none of Holdfast's, which name the file.
    """
    if not _KIND.fullmatch(made.kind):
        raise InvalidConfig(f"{made.kind!r} is no kind of lineage step", hint="use build_type('kebab-case')")
    if signer is None:  # a document is a file of the model, unlike a bundle, and cannot name a model id that counts it
        about = Subject(about.name, {name: value for name, value in about.digest.items() if name != MODEL_ID})
    made = replace(made, invocation=made.invocation or invocation(made, about))
    statement = made.statement(about)
    suffix = "json" if signer is None else "bundle.json"
    path = Path(folder) / LINEAGE / f"{_next_number(Path(folder)):04}-{made.kind}.{suffix}"
    write_atomic(path, statement.to_bytes() if signer is None else sign_statement(statement, signer))
    return path


def _next_number(folder: Path) -> int:
    """Return the number of the next step document in ``folder``."""
    taken = [int(path.name[:4]) for path in (folder / LINEAGE).glob("*.json") if _OURS.fullmatch(path.name)]
    return max(taken, default=0) + 1


def _provenance(step: Step, found: Circumstances) -> Provenance:
    made = of_step(step, {value: item for item in found.known for value in item.identities})
    return replace(
        made,
        inputs=(*made.inputs, *packages()),
        environment=environment(),
        version=holdfast_version(),
        started=found.started,
        finished=found.finished,
        byproducts=found.byproducts,
    )


def adopt(folder: Path | str, source: Path | str | None) -> None:
    """Clear what an older artifact left in ``folder/lineage``, and copy the statements of ``source``, if there are any.

    Raises:
        UnreadableArtifact: a step document of ``source`` is malformed.
    """
    folder = Path(folder)
    for path in sorted((folder / LINEAGE).glob("*.json")):
        if _OURS.fullmatch(path.name):
            path.unlink()
    if source is None:
        return
    for path in sorted((Path(source) / LINEAGE).glob("*.json")):
        data = read_bytes(path, "lineage statement", limit=_LIMIT)
        if not path.name.endswith(".bundle.json"):
            Statement.from_bytes(data)
        write_atomic(folder / LINEAGE / path.name, data)
