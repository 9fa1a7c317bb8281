"""Which formats that can run code a file is, told by its name and by its content, so that renaming hides nothing.

Nothing is opened by the libraries that would run it: bytes are compared, archives are listed, and pickles are read
opcode by opcode. What is detected, exactly:

``pickle``
    names ``*.pkl *.pickle *.pt *.pth *.ckpt *.joblib *.dill``; content: a pickle protocol header (2 to 5); a stream of
    protocol 0 or 1 that imports something and calls it within the first MiB; the first, compressed by gzip, zlib, bzip2
    or xz (joblib); a zip or tar archive with a member that is a pickle (PyTorch), or a NumPy array of objects
    (``.npy``, ``.npz``).
``torchscript``
    a zip archive with a folder ``code/`` and ``constants.pkl``.
``keras-lambda``
    an HDF5 file, or a zip archive with a ``config.json``, that names the layer class ``Lambda``.
``code``
    names ``*.py *.pyc *.pyd *.so *.dll *.dylib *.sh *.bat *.js *.jar``; content: ELF, PE, Mach-O, Java class, ``#!``.

Not detected: archives within archives, encrypted members, and formats not named here.
"""

from __future__ import annotations

import bz2
import lzma
import pickletools
import re
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Protocol

from holdfast._files import read_bytes
from holdfast.errors import UnreadableArtifact

_NAMES = {
    "pickle": ("*.pkl", "*.pickle", "*.pt", "*.pth", "*.ckpt", "*.joblib", "*.dill"),
    "torchscript": (),
    "keras-lambda": (),
    "code": ("*.py", "*.pyc", "*.pyd", "*.so", "*.so.*", "*.dll", "*.dylib", "*.sh", "*.bat", "*.js", "*.jar"),
}
FORMATS = tuple(_NAMES)
_PICKLE = re.compile(rb"\x80[\x02-\x05]")
_IMPORTS = {"GLOBAL", "STACK_GLOBAL", "EXT1", "EXT2", "EXT4"}
_CALLS = {"REDUCE", "OBJ", "NEWOBJ", "NEWOBJ_EX"}
_BINARIES = (b"\x7fELF", b"MZ", b"#!", b"\xca\xfe\xba\xbe", b"\xcf\xfa\xed\xfe", b"\xce\xfa\xed\xfe", b"\xfe\xed\xfa")
_OBJECTS = re.compile(rb"""['"][|<>=]?O\d*['"]""")  # the type of Python objects, anywhere in an array's description
_LAMBDA = re.compile(rb'"class_name"\s*:\s*"Lambda"')
_HEAD, _MAX_MEMBERS, _CONFIG = 1 << 20, 100_000, 64 << 20


class _Decompressor(Protocol):
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


_COMPRESSED: tuple[tuple[bytes, Callable[[], _Decompressor]], ...] = (
    (b"\x1f\x8b", lambda: zlib.decompressobj(31)),
    (b"\x78", zlib.decompressobj),
    (b"BZh", bz2.BZ2Decompressor),
    (b"\xfd7zXZ", lzma.LZMADecompressor),
)


def formats_of(path: Path, name: str) -> dict[str, str]:
    """Return each dangerous format that the file is or may be, with what gave it away.

    Args:
        path: the file.
        name: its POSIX path relative to the model.

    Raises:
        UnreadableArtifact: it cannot be read, or looks like an archive that cannot be listed.
    """
    found = {kind: f"{name} is called so" for kind, patterns in _NAMES.items() if _named(name, patterns)}
    head = read_bytes(path, "model file", prefix=_HEAD)
    if reason := _pickled(head):
        found["pickle"] = f"{name} {reason}"
    if head.startswith(_BINARIES):
        found["code"] = f"{name} begins like a program"
    if zipfile.is_zipfile(path):
        found |= _in_zip(path, name)
    elif head[257:262] == b"ustar" and _tar_holds_pickle(path):
        found["pickle"] = f"{name} is a tar archive with a pickle"
    if head.startswith(b"\x89HDF\r\n\x1a\n") and _mentions_lambda(path):
        found["keras-lambda"] = f"{name} names a Lambda layer"
    return found


def _named(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(name.lower(), pattern) for pattern in patterns)


def _pickled(head: bytes) -> str:
    """Return how the first bytes give a pickle away, or nothing."""
    if _PICKLE.match(head):
        return "begins with a pickle header"
    if _OBJECTS.search(_array_header(head)):
        return "is an array of pickled objects"
    if _calls_something(head):
        return "is a pickle without a header"
    for magic, make in _COMPRESSED:
        if head.startswith(magic) and _PICKLE.match(_first_bytes(make(), head)):
            return "is a compressed pickle"
    return ""


def _array_header(head: bytes) -> bytes:
    """Return the description of a NumPy array, whose length stands in two bytes (format 1) or four; else nothing."""
    if not head.startswith(b"\x93NUMPY"):
        return b""
    width = 2 if head[6:7] == b"\x01" else 4
    return head[8 + width : 8 + width + int.from_bytes(head[8 : 8 + width], "little")]


def _first_bytes(decompressor: _Decompressor, data: bytes) -> bytes:
    try:
        return decompressor.decompress(data, 64)
    except (zlib.error, OSError, lzma.LZMAError):  # it only looked compressed
        return b""


def _calls_something(head: bytes) -> bool:
    """Return whether the bytes, read as pickle opcodes, import a name, gather arguments and call, in this order."""
    stage, marked = 0, False
    for name in _opcodes(head):
        marked |= name == "MARK"
        if name in _IMPORTS:
            stage = max(stage, 1)
        elif stage == 1 and (name == "MARK" or "TUPLE" in name):
            stage = 2
        elif (stage == 2 and name in _CALLS) or (marked and name == "INST"):
            return True
    return False


def _opcodes(head: bytes) -> Iterator[str]:
    """Yield the names of the pickle opcodes, as far as the bytes are such; nothing of them is run."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # escapes in text that is none
        try:
            for opcode, _, _ in pickletools.genops(head):
                yield opcode.name
        except (ValueError, IndexError, OverflowError):
            return


def _in_zip(path: Path, name: str) -> dict[str, str]:
    found: dict[str, str] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.namelist()
            if len(members) > _MAX_MEMBERS:
                raise UnreadableArtifact(f"{name} is an archive of more than {_MAX_MEMBERS} members")
            for member in members:
                if _named(member, _NAMES["pickle"]) or _pickled(_member_head(archive, member)):
                    found["pickle"] = f"{name} is an archive with the pickle {member}"
            if any("/code/" in f"/{item}" for item in members) and any(i.endswith("constants.pkl") for i in members):
                found["torchscript"] = f"{name} is a TorchScript archive"
            configs = [item for item in members if item.rpartition("/")[2] == "config.json"]
            if any(_LAMBDA.search(_member_head(archive, item, _CONFIG)) for item in configs):
                found["keras-lambda"] = f"{name} names a Lambda layer"
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError, EOFError, zlib.error) as error:
        raise UnreadableArtifact(f"{name} looks like an archive and cannot be listed: {error}") from error
    return found


def _member_head(archive: zipfile.ZipFile, member: str, size: int = 1 << 16) -> bytes:
    with archive.open(member) as stream:
        return stream.read(size)


def _tar_holds_pickle(path: Path) -> bool:
    try:
        with tarfile.open(path, "r:") as archive:
            for count, member in enumerate(archive):
                stream = archive.extractfile(member) if member.isfile() else None
                if stream is not None and _PICKLE.match(stream.read(2)):
                    return True
                if count > _MAX_MEMBERS:
                    raise UnreadableArtifact(f"{path.name} is an archive of more than {_MAX_MEMBERS} members")
    except (tarfile.TarError, OSError) as error:
        raise UnreadableArtifact(f"{path.name} looks like an archive and cannot be listed: {error}") from error
    return False


def _mentions_lambda(path: Path) -> bool:
    tail = b""
    with path.open("rb") as stream:
        while block := stream.read(_HEAD):
            if _LAMBDA.search(tail + block):
                return True
            tail = block[-256:]
    return False
