"""A model on a disk that is not trusted: encrypted, authenticated, and never an older one than the last.

A folder holds, for version ``n``, ``n.manifest`` and one ``n.<k>.part`` for each file, all sealed (AES-256-GCM) as
what they are: counter, version, place and name are authenticated with the bytes, so parts cannot be exchanged, dropped
or taken from another version or store. The manifest lists every file with its SHA-256.

A :class:`~holdfast.shielding.sealing.counter.MonotonicCounter` keeps which version is the last one, and which numbers
were ever begun: a number is reserved before anything is sealed under it, and committed when all of it is on the disk.
So what an interrupted writing left never passes for a later version, and whoever puts an old folder back is refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from holdfast import _files
from holdfast.errors import IntegrityError, InvalidConfig, StorageError, UnreadableArtifact
from holdfast.evidence import canonical
from holdfast.shielding.sealing.aead import Sealer
from holdfast.shielding.sealing.counter import MonotonicCounter
from holdfast.shielding.sealing.description import description, proved_bounds
from holdfast.shielding.sealing.memory import Before, same_bits

TYPE = "holdfast.sealed-store/v1"
_STATE, _DESCRIPTION = "state.safetensors", "description.json"
_SPAN = 2**20  # counter values to one number of a version


class SealedStore:
    """Holds one set of named files at a time, the newest.

    Args:
        folder: where sealed files lie; may be anybody's disk.
        sealer: made with a key that is released to the trusted world only.
        counter: the version; as trustworthy as rollback protection is to be.
    """

    def __init__(self, folder: Path | str, sealer: Sealer, counter: MonotonicCounter) -> None:
        self._folder, self._sealer, self._counter = Path(folder), sealer, counter
        self._writing = Lock()

    def write(self, files: Mapping[str, bytes]) -> int:
        """Replace everything by ``files`` and return the new version, which is higher than any before.

        The version is committed last, so a crash on the way leaves the old one as it was.

        Raises:
            StorageError: the disk is full or refuses.
            InvalidConfig: no files.
            IntegrityError: somebody else writes with the same counter.
        """
        if not files:
            raise InvalidConfig("a sealed store holds at least one file")
        _files.make_folder(self._folder)
        with self._writing:
            reserved, version = self._reserve()
            self._seal(files, version)
            self._counter.advance(_committed(version), after=reserved)
            self._forget(version)
        return version

    def _reserve(self) -> tuple[int, int]:
        """Return the value that the counter has from now on, and a version that nothing was ever sealed as."""
        now = self._counter.read()
        begun, last = _versions(now)
        reserved = _committed(begun + 1) - (begun + 1 - last)
        self._counter.advance(reserved, after=now)
        return reserved, begun + 1

    def _seal(self, files: Mapping[str, bytes], version: int) -> None:
        entries = [
            {"bytes": len(data), "name": name, "sha256": hashlib.sha256(data).hexdigest()}
            for name, data in files.items()
        ]
        for place, (name, data) in enumerate(files.items()):
            _files.write_atomic(self._part(version, place), self._sealer.seal(data, self._what(version, place, name)))
        manifest = canonical.dumps({"files": entries, "type": TYPE, "version": version})
        _files.write_atomic(self._manifest(version), self._sealer.seal(manifest, self._what(version, -1, "manifest")))

    def read(self) -> dict[str, bytes]:
        """Return every file, each as it was written.

        Raises:
            IntegrityError: changed, missing, exchanged, or another version than the last one written.
            UnreadableArtifact: nothing was ever written.
        """
        _, version = _versions(self._counter.read())
        if version == 0:
            raise UnreadableArtifact(f"nothing was sealed in {self._folder} yet")
        manifest = self._open_manifest(version)
        return {entry["name"]: self._open_part(version, place, entry) for place, entry in enumerate(manifest["files"])}

    def seal_model(self, model: nn.Module) -> int:
        """Write the parameters and buffers of ``model`` and a description of all else; return the new version."""
        told = canonical.dumps(description(model))  # first, since it refuses what cannot be sealed
        tensors = {
            name: value.clone(memory_format=torch.contiguous_format) for name, value in model.state_dict().items()
        }
        return self.write({_STATE: save(tensors), _DESCRIPTION: told})

    def open_model(self, model: nn.Module) -> None:
        """Read parameters and buffers into ``model``, which is the one that was sealed but for them.

        Accumulator bounds are proved again, for the weights that were read.

        Raises:
            IntegrityError: as :meth:`read`.
            InvalidConfig: no model was sealed; or names, shapes, or anything else about ``model`` is not what was
                sealed: its classes, their settings, the steps of its graph. ``model`` is as it was then.
        """
        files = self.read()
        if not files.keys() >= {_STATE, _DESCRIPTION}:
            raise InvalidConfig(f"no model was sealed in {self._folder}", hint="read() returns what was")
        sealed = canonical.loads(files[_DESCRIPTION], what="the description of the sealed model")
        _require_same(model, sealed)
        state: dict[str, Tensor] = load(files[_STATE])
        _require_same_state(model.state_dict(), state)
        bounds = proved_bounds(model, state)
        _fill(model, state, sealed)
        for layer, bound in bounds:
            layer.bound = bound

    def _open_manifest(self, version: int) -> dict[str, Any]:
        sealed = self._raw(self._manifest(version), version)
        plain = self._sealer.open(sealed, self._what(version, -1, "manifest"), name=f"{self._manifest(version)}")
        manifest: dict[str, Any] = canonical.loads(plain, what="manifest")
        if manifest.get("type") != TYPE or manifest.get("version") != version:
            raise IntegrityError(f"the manifest of {self._folder} is of another kind or version")
        return manifest

    def _open_part(self, version: int, place: int, entry: dict[str, Any]) -> bytes:
        path, name = self._part(version, place), str(entry["name"])
        data = self._sealer.open(self._raw(path, version), self._what(version, place, name), name=f"{path} ({name})")
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

    def _what(self, version: int, place: int, name: str) -> bytes:
        return canonical.dumps([TYPE, self._counter.identity.hex(), version, place, name])


def _committed(version: int) -> int:
    """Return the value of the counter when ``version`` is the last one written.

    While it is being written the value is below that by the versions begun since the last one written. So one number
    that only goes up tells both which versions were begun and which is the last.
    """
    return version * _SPAN + _SPAN - 1


def _versions(value: int) -> tuple[int, int]:
    """Return the last version that was begun and the last that was committed; 0 is none."""
    begun = value // _SPAN
    last = begun - (_committed(begun) - value) if value else 0
    if last < 0:
        raise IntegrityError(f"a counter at {value} does not count versions", hint="each store has its own counter")
    return begun, last


def _fill(model: nn.Module, state: Mapping[str, Tensor], sealed: Mapping[str, str]) -> None:
    """Read ``state`` into ``model``, and see that it has it now and is still the one that was sealed."""
    before = Before(model)
    try:
        try:
            model.load_state_dict(state)
        except RuntimeError as error:
            raise InvalidConfig(f"the model does not take what was sealed: {error}") from error
        own = model.state_dict()
        _require_equal({name for name in own.keys() | state.keys() if not _same(own, state, name)})
        _require_same(model, sealed)
    except BaseException:
        before.restore()
        raise


def _same(own: Mapping[str, Tensor], sealed: Mapping[str, Tensor], name: str) -> bool:
    return name in own and name in sealed and same_bits(own[name], sealed[name])


def _require_same(model: nn.Module, sealed: Mapping[str, str]) -> None:
    own = description(model)
    _require_equal({name for name in own.keys() | sealed.keys() if own.get(name) != sealed.get(name)})


def _require_same_state(own: Mapping[str, Tensor], sealed: Mapping[str, Tensor]) -> None:
    _require_equal({name for name in own.keys() | sealed.keys() if _shape(own, name) != _shape(sealed, name)})


def _require_equal(differing: set[str]) -> None:
    if differing:
        raise InvalidConfig(
            f"the sealed model differs from this one at {min(differing)!r} ({len(differing)} in all)",
            hint="open it into the model that was sealed, made in the same way",
        )


def _shape(state: Mapping[str, Tensor], name: str) -> tuple[object, ...] | None:
    return (tuple(state[name].shape), state[name].dtype) if name in state else None
