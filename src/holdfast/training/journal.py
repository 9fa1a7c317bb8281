"""Where a training keeps what it needs to go on, and what it measured.

Every snapshot is a link of a hash chain in ``checkpoints.jsonl``: one that was swapped or edited is not gone on from.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from holdfast._extras import extra
from holdfast._files import make_folder, read_bytes, write_atomic
from holdfast.errors import DigestMismatch, InvalidConfig, StorageError
from holdfast.evidence import canonical
from holdfast.evidence.chain import Chain
from holdfast.evidence.digest import digest_bytes
from holdfast.execution.database import differing
from holdfast.training.measured import Measured
from holdfast.training.snapshot import Snapshot, read_snapshot, snapshot_bytes
from holdfast.training.state import State

METRICS, CHAIN = "metrics.jsonl", "checkpoints.jsonl"
_PATTERN = "snapshot-*.safetensors"


@dataclass(kw_only=True)
class Journal:
    """A folder with ``snapshot-EPOCHS.safetensors``, their chain, and ``metrics.jsonl``, one line per epoch.

    Attributes:
        folder: made when it is missing.
        every: epochs from one snapshot to the next; the last epoch has one anyway.
        keep: keep the snapshot of every so many epochs; None keeps the newest alone.
        tensorboard: write event files to ``folder/tensorboard`` as well.
        head: go on only if the chain of the snapshots that are there has this head (hex). Without it, who can write to
            the folder can replace snapshots and chain together.
    """

    folder: Path | str
    every: int = 1
    keep: int | None = None
    tensorboard: bool = False
    head: str | None = None
    _chain: Chain = field(default_factory=lambda: Chain.of({}), init=False, repr=False)
    _training: Mapping[str, Any] = field(default_factory=dict, init=False, repr=False)
    _board: Any = field(default=None, init=False, repr=False)
    _fresh: bool = field(default=False, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.every < 1 or (self.keep is not None and self.keep < 1):
            raise InvalidConfig("snapshots are taken and kept every epoch or more rarely")
        if self.keep is not None and self.keep % self.every:
            raise InvalidConfig(f"every {self.keep} epochs is not always one of every {self.every}")

    def open(self, state: State, training: Mapping[str, Any]) -> None:
        """Bring ``state`` to where the newest snapshot stands, if there is one.

        Args:
            state: before the first batch.
            training: what the training is: recipe, parameters, seed, and the digests of data and model.

        Raises:
            InvalidConfig: the folder holds another training.
            UnreadableArtifact: a snapshot is damaged.
            DigestMismatch: a snapshot is not the one that was written, or the chain was edited.
            MissingExtra: TensorBoard is wanted and not installed.
        """
        self._training = canonical.loads(canonical.dumps(dict(training)), what="training")
        self._fresh = not Path(self.folder).exists()
        make_folder(self.folder)
        self._board = _board(Path(self.folder)) if self.tensorboard else None
        self._chain = Chain.of(self._training)
        if newest := self._snapshots():
            found = read_snapshot(newest[-1])
            _require_same(found.training, self._training, newest[-1])
            self._chain = self._verified(newest[-1], found)
            state.restore(found.tensors, found.epoch, found.loss)
        if self.head is not None and self._chain.head != self.head:
            raise DigestMismatch(f"the checkpoints in {self.folder} are not those whose chain was expected")
        write_atomic(Path(self.folder) / CHAIN, self._chain.to_bytes())
        lines = [line for line in self._lines() if line["epoch"] < state.epoch]
        write_atomic(Path(self.folder) / METRICS, b"".join(_line(value) for value in lines))

    def _verified(self, path: Path, found: Snapshot) -> Chain:
        """Return the chain up to the snapshot just read; what came later was never finished, or was taken away."""
        place = Path(self.folder) / CHAIN
        if not place.exists():
            raise DigestMismatch(f"{self.folder} has snapshots and no {CHAIN} to check them against", hint=_START_OVER)
        chain = Chain.from_bytes(read_bytes(place, "checkpoint chain"), what=str(place))
        if chain.start != Chain.of(self._training).start:
            raise DigestMismatch(f"{place} is the chain of another training", hint=_START_OVER)
        chain = chain.upto(path.name, found.digest)
        if not chain.links[-1].step == found.epoch == _epoch_of(path):
            raise DigestMismatch(f"{path} is the snapshot of another epoch", hint=_START_OVER)
        return chain

    @property
    def chain(self) -> Chain:
        """The checkpoints so far; its head belongs into the provenance of the model."""
        return self._chain

    @property
    def has_snapshots(self) -> bool:
        """Whether a training could go on from here."""
        return bool(self._snapshots())

    def record(self, state: State, measured: Measured, *, last: bool) -> None:
        """Write down an epoch, and take a snapshot when one is due."""
        try:
            with (Path(self.folder) / METRICS).open("ab") as file:
                file.write(_line(asdict(measured)))
        except OSError as error:
            raise StorageError(f"cannot write {self.folder}/{METRICS}: {error.strerror or error}") from error
        if self._board is not None:
            _show(self._board, measured)
        if last or state.epoch % self.every == 0:
            self._take(state)
            self._tidy(state.epoch)

    def _take(self, state: State) -> None:
        """Write the link first: a snapshot without one is refused, a link without its snapshot is passed over."""
        data, path = snapshot_bytes(state, self._training), self._path(state.epoch)
        self._chain = self._chain.add(path.name, digest_bytes(data), state.epoch)
        write_atomic(Path(self.folder) / CHAIN, self._chain.to_bytes())
        write_atomic(path, data)

    def abandon(self) -> None:
        """Take the folder away again if :meth:`open` made it and no epoch has been recorded since."""
        metrics = Path(self.folder) / METRICS
        if self._fresh and not self._snapshots() and not (metrics.exists() and metrics.stat().st_size):
            with suppress(OSError):  # something else is in it
                metrics.unlink(missing_ok=True)
                (Path(self.folder) / CHAIN).unlink(missing_ok=True)
                Path(self.folder).rmdir()

    def _tidy(self, newest: int) -> None:
        for path in self._snapshots():
            epoch = _epoch_of(path)
            if epoch != newest and (self.keep is None or epoch % self.keep):
                path.unlink(missing_ok=True)

    def _path(self, epoch: int) -> Path:
        return Path(self.folder) / f"snapshot-{epoch:06}.safetensors"

    def _snapshots(self) -> list[Path]:
        found = [path for path in Path(self.folder).glob(_PATTERN) if _epoch_of(path) >= 0]
        return sorted(found, key=_epoch_of)

    def _lines(self) -> list[dict[str, Any]]:
        """Return the epochs written down so far; a line cut short by an interruption is left out."""
        path, found = Path(self.folder) / METRICS, []
        for line in read_bytes(path, "metrics").splitlines() if path.exists() else ():
            try:
                value = json.loads(line)
            except (ValueError, RecursionError):  # the latter of a line nested too deeply
                continue
            if isinstance(value, dict) and isinstance(value.get("epoch"), int):
                found.append(value)
        return found


_START_OVER = "restore the folder as it was, or delete it to start over"


def _line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(dict(value)).encode() + b"\n"


def _epoch_of(path: Path) -> int:
    digits = path.stem.removeprefix("snapshot-")
    return int(digits) if digits.isascii() and digits.isdecimal() else -1


def _require_same(found: Mapping[str, Any], wanted: Mapping[str, Any], path: Path) -> None:
    """Raise :class:`InvalidConfig`, naming what differs, unless a snapshot belongs to the training at hand."""
    if found == wanted:
        return
    keys = differing(_flat(found), _flat(wanted))
    raise InvalidConfig(
        f"{path.parent} holds another training: {', '.join(keys)} differ{'s' * (len(keys) == 1)}",
        hint="choose another folder, or delete that one to start over",
    )


def _flat(value: object, prefix: str = "") -> dict[str, object]:
    if not isinstance(value, dict):
        return {prefix: value}
    return {
        key: leaf for name, item in value.items() for key, leaf in _flat(item, f"{prefix}.{name}".strip(".")).items()
    }


def _board(folder: Path) -> Any:
    board = extra("torch.utils.tensorboard", name="tensorboard", needs="TensorBoard is not installed")
    return board.SummaryWriter(str(folder / "tensorboard"))


def _show(board: Any, measured: Measured) -> None:
    for name, value in asdict(measured).items():
        if name != "epoch" and value is not None:
            board.add_scalar(f"train/{name}", value, measured.epoch)
    board.flush()
