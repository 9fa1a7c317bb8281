"""Watching a loaded model: its signed manifest gives the roots, its verified files the bytes to mend from."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from blake3 import blake3

from holdfast._files import make_folder, write_atomic
from holdfast.errors import DigestMismatch, RecordMissing, UnreadableArtifact
from holdfast.evidence.model_manifest import ModelManifest, TensorEntry
from holdfast.evidence.statement import Subject
from holdfast.signing.bundle import sign_statement
from holdfast.signing.manifests import read_manifest
from holdfast.signing.resident.audit import Audit
from holdfast.signing.resident.incident import Incident
from holdfast.signing.resident.roots import roots_of
from holdfast.signing.signers.protocol import Signer
from holdfast.signing.trusts import Threshold, TrustSources

if TYPE_CHECKING:
    from torch import nn


class StoredTensors:
    """The tensors of a model's files, each read whole into private memory and held against its signed root."""

    def __init__(self, model: Path | str, entries: Iterable[TensorEntry]) -> None:
        self._root = Path(model)
        self._entries = {item.name: item for item in entries}

    def read(self, name: str) -> bytes:
        """Return the signed bytes of tensor ``name``.

        Raises:
            DigestMismatch: the file holds other bytes by now.
            UnreadableArtifact: the file is gone.
        """
        entry = self._entries[name]
        path = self._root / entry.file if self._root.is_dir() else self._root
        try:
            with path.open("rb", buffering=0) as file:
                data = os.pread(file.fileno(), entry.length, entry.offset)
        except OSError as error:
            raise UnreadableArtifact(f"cannot read {path} to mend {name}: {error.strerror}") from error
        if len(data) != entry.length or blake3(data).hexdigest() != entry.blake3:
            raise DigestMismatch(f"{path.name} no longer holds the signed bytes of {name}")
        return data


class Incidents:
    """Writes each incident as a record into ``folder``, signed where a signer is given; numbered, never replaced."""

    def __init__(self, folder: Path | str, manifest: ModelManifest, signer: Signer | None = None) -> None:
        self._folder, self._manifest, self._signer = make_folder(folder), manifest, signer

    def __call__(self, incident: Incident) -> None:
        """Write one incident."""
        from holdfast import __version__

        subject = Subject(self._manifest.name, {"blake3": self._manifest.model_id})
        procedure = {"type": "resident-audit", "version": 1}
        record = incident.to_record(subject, procedure, {"name": "holdfast", "version": __version__})
        if self._signer is None:
            write_atomic(self._free("json"), record.to_bytes())
        else:
            write_atomic(self._free("bundle.json"), sign_statement(record.to_statement(), self._signer))

    def _free(self, suffix: str) -> Path:
        number = 1 + sum(1 for _ in self._folder.glob("incident-*"))
        return self._folder / f"incident-{number:04}.{suffix}"


def watch(
    model: nn.Module,
    path: Path | str,
    *,
    trust: TrustSources | Threshold,
    budget: float | None = None,
    mend: bool = True,
    out: Path | str | None = None,
    signer: Signer | None = None,
    on_incident: Callable[[Incident], None] = lambda incident: None,
) -> Audit:
    """Return an audit of ``model`` against the signed manifest of the files it was loaded from; enter it to start.

    Args:
        model: the module in memory, with the tensors of ``path`` and no others.
        path: the signed artifact it came from, with its ``model.sig2``.
        trust: who must have signed.
        budget: bytes per second; None takes what a core gives.
        mend: restore changed ranges from the files, whose bytes are verified again as they are read.
        out: folder for incident records.
        signer: signs them.
        on_incident: called from the auditing thread.

    Raises:
        RecordMissing: no signed manifest, or one that lists no tensors.
        VerificationError: the manifest is not ``trust``'s, or the model has other tensors than it lists.
    """
    manifest, _ = read_manifest(path, trust)
    if not manifest.tensors:
        raise RecordMissing(f"the manifest of {path} lists no tensors", hint="holdfast sign lists those of safetensors")
    write = None if out is None else Incidents(out, manifest, signer)

    def report(incident: Incident) -> None:
        if write is not None:
            write(incident)
        on_incident(incident)

    source = StoredTensors(path, manifest.tensors) if mend else None
    return Audit(model, roots_of(model, manifest.tensors), budget=budget, source=source, on_incident=report)
