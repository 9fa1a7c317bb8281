"""A model on a disk that is not trusted: encrypted, authenticated, and never an older one than the last.

A folder holds, for version ``n``, ``n.manifest`` and one ``n.<k>.part`` for each file, all sealed (AES-256-GCM) as
what they are: version, place and name are authenticated with the bytes, so parts cannot be exchanged, dropped or taken
from another version. The manifest lists every file with its SHA-256. The version itself is kept by a
:class:`~holdfast.shielding.sealing.counter.MonotonicCounter`: whoever puts an old folder back is refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors.torch import load, save
from torch import Tensor, nn

from holdfast import _files
from holdfast.errors import IntegrityError, InvalidConfig, StorageError, UnreadableArtifact
from holdfast.evidence import canonical
from holdfast.shielding.sealing.aead import Sealer
from holdfast.shielding.sealing.counter import MonotonicCounter

TYPE = "holdfast.sealed-store/v1"
_STATE = "state.safetensors"


class SealedStore:
    """Holds one set of named files at a time, the newest.

    Args:
        folder: where sealed files lie; may be anybody's disk.
        sealer: made with a key that is released to the trusted world only.
        counter: the version; as trustworthy as rollback protection is to be.
    """

    def __init__(self, folder: Path | str, sealer: Sealer, counter: MonotonicCounter) -> None:
        self._folder, self._sealer, self._counter = Path(folder), sealer, counter

    def write(self, files: Mapping[str, bytes]) -> int:
        """Replace everything by ``files`` and return the new version.

        The counter is advanced last, so a crash on the way leaves the old version as it was.

        Raises:
            StorageError: the disk is full or refuses.
            InvalidConfig: no files.
        """
        if not files:
            raise InvalidConfig("a sealed store holds at least one file")
        _files.make_folder(self._folder)
        version = self._counter.read() + 1
        entries = [
            {"bytes": len(data), "name": name, "sha256": hashlib.sha256(data).hexdigest()}
            for name, data in files.items()
        ]
        for place, (name, data) in enumerate(files.items()):
            _files.write_atomic(self._part(version, place), self._sealer.seal(data, _what(version, place, name)))
        manifest = canonical.dumps({"files": entries, "type": TYPE, "version": version})
        _files.write_atomic(self._manifest(version), self._sealer.seal(manifest, _what(version, -1, "manifest")))
        self._counter.advance(version, after=version - 1)
        self._forget(version)
        return version

    def read(self) -> dict[str, bytes]:
        """Return every file, each as it was written.

        Raises:
            IntegrityError: changed, missing, exchanged, or an older version than the last one written.
            UnreadableArtifact: nothing was ever written.
        """
        version = self._counter.read()
        if version == 0:
            raise UnreadableArtifact(f"nothing was sealed in {self._folder} yet")
        manifest = self._open_manifest(version)
        return {entry["name"]: self._open_part(version, place, entry) for place, entry in enumerate(manifest["files"])}

    def seal_model(self, model: nn.Module) -> int:
        """Write the parameters and buffers of ``model``; return the new version."""
        return self.write({_STATE: save({name: value.contiguous() for name, value in model.state_dict().items()})})

    def open_model(self, model: nn.Module) -> None:
        """Read parameters and buffers into ``model``, which has the same architecture.

        Raises:
            IntegrityError: as :meth:`read`.
            InvalidConfig: the stored names or shapes are not the model's.
        """
        files = self.read()
        state: dict[str, Tensor] = load(files[_STATE]) if _STATE in files else {}
        own = model.state_dict()
        differing = sorted(name for name in own.keys() | state.keys() if _shape(own, name) != _shape(state, name))
        if differing:
            raise InvalidConfig(
                f"the sealed model differs from this one at {differing[0]!r} ({len(differing)} in all)",
                hint="open it into the architecture that was sealed",
            )
        model.load_state_dict(state)

    def _open_manifest(self, version: int) -> dict[str, Any]:
        sealed = self._raw(self._manifest(version), version)
        plain = self._sealer.open(sealed, _what(version, -1, "manifest"), name=f"{self._manifest(version)}")
        manifest: dict[str, Any] = canonical.loads(plain, what="manifest")
        if manifest.get("type") != TYPE or manifest.get("version") != version:
            raise IntegrityError(f"the manifest of {self._folder} is of another kind or version")
        return manifest

    def _open_part(self, version: int, place: int, entry: dict[str, Any]) -> bytes:
        path, name = self._part(version, place), str(entry["name"])
        data = self._sealer.open(self._raw(path, version), _what(version, place, name), name=f"{path} ({name})")
        if len(data) != entry["bytes"] or hashlib.sha256(data).hexdigest() != entry["sha256"]:
            raise IntegrityError(f"{path} is not the {name!r} of the manifest")
        return data

    def _raw(self, path: Path, version: int) -> bytes:
        try:
            return path.read_bytes()
        except FileNotFoundError as error:
            raise IntegrityError(
                f"{path} is missing from version {version}",
                hint="the folder was cut, or an older one was put back; restore the newest copy",
            ) from error
        except OSError as error:
            raise StorageError(f"cannot read {path}: {error.strerror or error}") from error

    def _forget(self, version: int) -> None:
        """Remove files of other versions; one that resists is dead weight, not a danger."""
        for path in self._folder.iterdir():
            head = path.name.split(".")[0]
            if head.isdigit() and int(head) != version:
                with suppress(OSError):
                    path.unlink()

    def _manifest(self, version: int) -> Path:
        return self._folder / f"{version}.manifest"

    def _part(self, version: int, place: int) -> Path:
        return self._folder / f"{version}.{place}.part"


def _what(version: int, place: int, name: str) -> bytes:
    return canonical.dumps([TYPE, version, place, name])


def _shape(state: Mapping[str, Tensor], name: str) -> tuple[object, ...] | None:
    return (tuple(state[name].shape), state[name].dtype) if name in state else None
