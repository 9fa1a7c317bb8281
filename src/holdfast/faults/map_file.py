"""Files of error maps: which cells of a measured memory fail, and which way.

Our own format, which ``docs/faults.md`` specifies, is an npz archive (zip of npy arrays, no pickles) of exactly these:

=========  ==================  =====================================================================
version    int64, shape ()     1
shape      int64, shape (3,)   banks, rows, columns of the memory
address    int64, shape (n,)   faulty cells, ascending, each once: columns first, then rows, then banks
direction  int8, shape (n,)    1 the cell reads one, -1 it reads zero, 0 it flips
voltage    float64, shape (n,) highest voltage at which the cell fails, in volt; all zero if unknown
=========  ==================  =====================================================================

The maps of block RAM of a Xilinx KC705 under reduced voltage (Salami et al., MICRO 2018), as npz files of one voltage
each, are read as they are: 445 blocks of 1024 words of 16 bits, direction not recorded.
"""

from __future__ import annotations

import hashlib
import io
import math
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from holdfast._files import read_bytes, write_atomic
from holdfast.errors import InvalidConfig, UnreadableArtifact, UnsupportedVersion

VERSION = 1
_LIMIT = 2**28  # bytes of a file, and of an array in it
_LIMIT_ALL = 2**29  # bytes of its arrays together
_MOST_CELLS = 2**50
_OWN = {"version", "shape", "address", "direction", "voltage"}
_BRAM = {"bit_index", "n_bits", "vdd", "cell_index", "n_cells"}
_BLOCK = (1024, 16)  # words and bits of a block RAM as it was read out
# zipfile and numpy answer damaged input with errors of many kinds, all of which mean the same here
_DAMAGE = (zipfile.BadZipFile, zlib.error, ValueError, TypeError, EOFError, OSError, KeyError, RuntimeError)


@dataclass(frozen=True, eq=False)
class ErrorMap:
    """The faulty cells of one memory.

    Attributes:
        shape: banks, rows, columns.
        address: int64, shape (n,), ascending, each once.
        direction: int8, shape (n,): 1 reads one, -1 reads zero, 0 flips.
        voltage: float64, shape (n,): highest voltage at which the cell fails, in volt; zero if unknown.

    Raises:
        InvalidConfig: arrays that do not belong together, or an address outside the shape.
    """

    shape: tuple[int, int, int]
    address: np.ndarray
    direction: np.ndarray
    voltage: np.ndarray

    def __post_init__(self) -> None:
        wanted = (("address", "i8"), ("direction", "i1"), ("voltage", "f8"))
        for name, dtype in wanted:
            value = getattr(self, name)
            if value.dtype != np.dtype(dtype) or value.shape != self.address.shape or value.ndim != 1:
                raise InvalidConfig(f"{name} of an error map is {value.dtype} of shape {value.shape}", hint=_FORMAT)
        if min(self.shape) < 1 or math.prod(self.shape) > _MOST_CELLS:
            raise InvalidConfig(f"an error map cannot have the shape {self.shape}", hint=_FORMAT)
        if (np.diff(self.address) <= 0).any():
            raise InvalidConfig("the addresses of an error map do not ascend", hint=_FORMAT)
        if len(self.address) and not 0 <= self.address[0] <= self.address[-1] < self.cells:
            raise InvalidConfig(f"an error map of {self.cells} cells names cells outside them", hint=_FORMAT)
        if not (np.isin(self.direction, (-1, 0, 1)).all() and (self.voltage >= 0).all()):
            raise InvalidConfig("an error map has an unknown direction or a negative voltage", hint=_FORMAT)

    @property
    def cells(self) -> int:
        """Number of cells, faulty or not."""
        return math.prod(self.shape)

    @property
    def voltages(self) -> tuple[float, ...]:
        """The voltages at which cells begin to fail, descending."""
        return tuple(sorted({float(value) for value in np.unique(self.voltage) if value > 0}, reverse=True))

    def at(self, voltage: float) -> ErrorMap:
        """Return the cells that fail at ``voltage``: those that begin to at this or a higher one."""
        held = self.voltage >= voltage
        return ErrorMap(self.shape, self.address[held], self.direction[held], self.voltage[held])


_FORMAT = "docs/faults.md has the format; write_error_map writes it"


def write_error_map(path: Path | str, error_map: ErrorMap) -> None:
    """Write ``error_map`` to ``path`` in our own format."""
    stream = io.BytesIO()
    arrays = {name: getattr(error_map, name) for name in ("address", "direction", "voltage")}
    np.savez_compressed(stream, version=np.int64(VERSION), shape=np.array(error_map.shape, np.int64), **arrays)
    write_atomic(path, stream.getvalue())


def read_error_map(path: Path | str) -> tuple[ErrorMap, str]:
    """Return the map in a file, of our own format or one of block RAM, and ``sha256:`` of the file.

    Raises:
        UnreadableArtifact: missing, truncated, not an archive of arrays, or not a map.
        UnsupportedVersion: a map of another version.
    """
    data = read_bytes(path, "error map", limit=_LIMIT)
    arrays = _arrays(data, path)
    try:
        found = _bram(arrays) if set(arrays) == _BRAM else _own(arrays, path)
    except (InvalidConfig, TypeError, ValueError, OverflowError) as error:
        raise UnreadableArtifact(f"{path} is no error map: {error}", hint=_FORMAT) from error
    return found, f"sha256:{hashlib.sha256(data).hexdigest()}"


def _arrays(data: bytes, path: Path | str) -> dict[str, np.ndarray]:
    """Return the arrays of an npz archive; never unpickles, and refuses one of more than 512 MiB unpacked."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            names = sorted(info.filename.removesuffix(".npy") for info in members)
            if names not in (sorted(_OWN), sorted(_BRAM)):
                raise ValueError(f"it holds {', '.join(names) or 'nothing'}")
            if (total := sum(info.file_size for info in members)) > _LIMIT_ALL:
                raise ValueError(f"its arrays are {total} bytes long together")
            return {info.filename.removesuffix(".npy"): _array(archive, info) for info in members}
    except _DAMAGE as error:
        raise UnreadableArtifact(f"{path} does not hold the arrays of an error map: {error}", hint=_FORMAT) from error


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    if info.file_size > _LIMIT:
        raise ValueError(f"{info.filename} is {info.file_size} bytes long")
    with archive.open(info) as member:
        content = member.read(info.file_size + 1)
    stream = io.BytesIO(content)
    version = np.lib.format.read_magic(stream)
    if version != (1, 0):
        raise ValueError(f"{info.filename} is of another version of npy")
    shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    if dtype.hasobject or math.prod(shape) * dtype.itemsize != len(content) - stream.tell():
        raise ValueError(f"{info.filename} is not as long as its header says")
    return np.frombuffer(content, dtype, offset=stream.tell()).reshape(shape)


def _own(arrays: dict[str, np.ndarray], path: Path | str) -> ErrorMap:
    if (version := int(arrays["version"])) != VERSION:
        raise UnsupportedVersion(f"{path} is an error map of version {version}", hint=f"this one reads {VERSION}")
    shape = arrays["shape"]
    if shape.dtype != np.int64 or shape.shape != (3,):
        raise InvalidConfig("shape is not three numbers of type int64")
    banks, rows, columns = shape.tolist()
    return ErrorMap((banks, rows, columns), arrays["address"], arrays["direction"], arrays["voltage"])


def _bram(arrays: dict[str, np.ndarray]) -> ErrorMap:
    cells, address = int(arrays["n_cells"]), np.sort(arrays["cell_index"].astype(np.int64))
    blocks, rest = divmod(cells, math.prod(_BLOCK))
    if rest:
        raise InvalidConfig(f"{cells} cells are not whole blocks of {math.prod(_BLOCK)}")
    voltage = np.full(len(address), float(arrays["vdd"]))
    return ErrorMap((blocks, *_BLOCK), address, np.zeros(len(address), np.int8), voltage)
