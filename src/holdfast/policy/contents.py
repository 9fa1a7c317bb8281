"""Which formats that can run code a file is, told by its name and by its content, so that renaming hides nothing.

Nothing is opened by the libraries that would run it: bytes are compared, archives are listed, and pickles are read
opcode by opcode. What is detected, exactly:

``pickle``
    names ``*.pkl *.pickle *.pt *.pth *.ckpt *.joblib *.dill``; content: a pickle protocol header (2 to 5); pickles
    without one, of which any imports something and calls or changes it; either in the first MiB of what gzip, zlib,
    bzip2, xz or lzma compressed (joblib); a zip or tar archive with a member that is a pickle (PyTorch), or a NumPy
    array of objects (``.npy``, ``.npz``), or one whose description cannot be told from that of objects.
``torchscript``
    a zip archive with a folder ``code/`` and ``constants.pkl``.
``keras-lambda``
    an HDF5 file, or a zip archive with a ``config.json``, that names the layer class ``Lambda`` or the function
    ``__lambda__``; a configuration longer than 64 MiB.
``code``
    names ``*.py *.pyc *.pyd *.so *.dll *.dylib *.sh *.bat *.js *.jar``; content: ELF, PE, Mach-O, Java class, ``#!``.

A zip archive whose end record is not its end, or whose list of members is not right before that, may be all three:
readers differ in what they find in it. Not detected: archives within archives, encrypted members, and formats not named
here.
"""

from __future__ import annotations

import ast
import bz2
import json
import lzma
import os
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import IO, Protocol

from holdfast._files import read_bytes
from holdfast.errors import UnreadableArtifact
from holdfast.policy.archives import looks_like_archive, readers_agree
from holdfast.policy.pickles import acts, bytes_act

_NAMES = {
    "pickle": ("*.pkl", "*.pickle", "*.pt", "*.pth", "*.ckpt", "*.joblib", "*.dill"),
    "torchscript": (),
    "keras-lambda": (),
    "code": ("*.py", "*.pyc", "*.pyd", "*.so", "*.so.*", "*.dll", "*.dylib", "*.sh", "*.bat", "*.js", "*.jar"),
}
FORMATS = tuple(_NAMES)
_PICKLE = re.compile(rb"\x80[\x02-\x05]")
_BINARIES = (b"\x7fELF", b"MZ", b"#!", b"\xca\xfe\xba\xbe", b"\xcf\xfa\xed\xfe", b"\xce\xfa\xed\xfe", b"\xfe\xed\xfa")
_OLD_LONG = re.compile(r"(\d)L\b")  # how Python 2 wrote the sides of large arrays
_ARCHIVED = ("pickle", "torchscript", "keras-lambda")  # what may lie in an archive
_HDF = b"\x89HDF\r\n\x1a\n"
_LAMBDA = re.compile(rb'"class_name":"(?:Lambda|__lambda__)"')
_BLANKS = b" \t\r\n"  # between the words of JSON
_ESCAPE = re.compile(rb"\\u00([0-7][0-9a-fA-F])")  # of a letter in JSON, which may stand for itself
_HEAD, _MAX_MEMBERS, _CONFIG, _OVERLAP, _USER_BLOCK = 1 << 20, 100_000, 64 << 20, 1 << 12, 512


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


_COMPRESSED: tuple[tuple[bytes, Callable[[], _Decompressor]], ...] = (
    (b"\x1f\x8b", lambda: zlib.decompressobj(31)),
    (b"\x78", zlib.decompressobj),
    (b"BZh", bz2.BZ2Decompressor),
    (b"\xfd7zXZ", lzma.LZMADecompressor),
    (b"\x5d\x00", lambda: lzma.LZMADecompressor(lzma.FORMAT_ALONE)),
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
    with path.open("rb") as stream:
        if reason := _pickled(stream):
            found["pickle"] = f"{name} {reason}"
    if head.startswith(_BINARIES):
        found["code"] = f"{name} begins like a program"
    if zipfile.is_zipfile(path):
        found |= _in_zip(path, name)
    if (zipfile.is_zipfile(path) or looks_like_archive(path)) and not readers_agree(path):
        found = dict.fromkeys(_ARCHIVED, f"{name} is an archive whose readers need not agree on what is in it") | found
    elif _is_tar(head) and _tar_holds_pickle(path):
        found["pickle"] = f"{name} is a tar archive with a pickle"
    if _is_hdf(path) and _mentions_lambda(path):
        found["keras-lambda"] = f"{name} names a Lambda layer"
    return found


def _named(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(name.lower(), pattern) for pattern in patterns)


def _pickled(stream: IO[bytes]) -> str:
    """Return how a seekable stream gives a pickle away, or nothing."""
    head = stream.read(_HEAD)
    if _PICKLE.match(head):
        return "begins with a pickle header"
    if _holds_objects(head):
        return "is an array of pickled objects"
    stream.seek(0)
    if acts(stream):
        return "is a pickle without a header"
    for magic, make in _COMPRESSED:
        if head.startswith(magic) and _begins_pickled(_first_bytes(make, head)):
            return "is a compressed pickle"
    return ""


def _begins_pickled(data: bytes) -> bool:
    return _PICKLE.match(data) is not None or bytes_act(data)


def _holds_objects(head: bytes) -> bool:
    """Return whether a NumPy array is one of objects, as far as its description can be understood; else it may be."""
    if not head.startswith(b"\x93NUMPY"):
        return False
    width = 2 if head[6:7] == b"\x01" else 4  # of the description's length: format 1, or a later one
    length = int.from_bytes(head[8 : 8 + width], "little")
    text = head[8 + width : 8 + width + length]
    return len(text) < length or _describes_objects(text.decode("utf-8", "replace"))


def _describes_objects(text: str) -> bool:
    from numpy.lib.format import descr_to_dtype

    try:
        return bool(descr_to_dtype(ast.literal_eval(_OLD_LONG.sub(r"\1", text).strip())["descr"]).hasobject)
    except (ValueError, SyntaxError, TypeError, KeyError, IndexError, AttributeError, MemoryError, RecursionError):
        return True  # its readers may understand more than is understood here


def _first_bytes(make: Callable[[], _Decompressor], data: bytes) -> bytes:
    """Return what the first MiB decompresses to, at most a MiB of it; streams may follow each other."""
    found = b""
    try:
        while data and len(found) < _HEAD:
            one = make()
            found += one.decompress(data, _HEAD - len(found))
            if not one.eof:
                break
            data = one.unused_data
    except (zlib.error, OSError, lzma.LZMAError):  # it only looked compressed, or something else follows
        pass
    return found


def _in_zip(path: Path, name: str) -> dict[str, str]:
    found: dict[str, str] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()  # names may come twice, and readers differ in which they take
            members = [info.filename for info in infos]
            if len(members) > _MAX_MEMBERS:
                raise UnreadableArtifact(f"{name} is an archive of more than {_MAX_MEMBERS} members")
            for info in infos:
                if _named(info.filename, _NAMES["pickle"]) or _member_pickled(archive, info):
                    found["pickle"] = f"{name} is an archive with the pickle {info.filename}"
            if any("/code/" in f"/{item}" for item in members) and any(i.endswith("constants.pkl") for i in members):
                found["torchscript"] = f"{name} is a TorchScript archive"
            configs = [info for info in infos if info.filename.rpartition("/")[2] == "config.json"]
            if any(_config_names_lambda(archive, info) for info in configs):
                found["keras-lambda"] = f"{name} names a Lambda layer"
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError, EOFError, zlib.error) as error:
        raise UnreadableArtifact(f"{name} looks like an archive and cannot be listed: {error}") from error
    return found


def _config_names_lambda(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bool:
    """Return whether a configuration names a Lambda layer; one that is too long to be read counts as such."""
    with archive.open(member) as stream:
        data = stream.read(_CONFIG + 1)
    text = data.decode(json.detect_encoding(data), "replace")  # as json.loads does, which takes UTF-16 and UTF-32
    return len(data) > _CONFIG or _names_lambda(text.encode())


def _member_pickled(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bool:
    with archive.open(member) as stream:
        return bool(_pickled(stream))


def _is_tar(head: bytes) -> bool:
    """Return whether a tar header stands first: by its check sum, for the oldest kind has no mark."""
    try:
        tarfile.TarInfo.frombuf(head[: tarfile.BLOCKSIZE], "utf-8", "surrogateescape")
    except (tarfile.TarError, ValueError):
        return head[257:262] == b"ustar"
    return True


def _tar_holds_pickle(path: Path) -> bool:
    try:
        with tarfile.open(path, "r:") as archive:
            for count, member in enumerate(archive):
                stream = archive.extractfile(member) if member.isfile() else None
                if stream is not None and (_named(member.name, _NAMES["pickle"]) or _pickled(stream)):
                    return True
                if count > _MAX_MEMBERS:
                    raise UnreadableArtifact(f"{path.name} is an archive of more than {_MAX_MEMBERS} members")
    except (tarfile.TarError, OSError) as error:
        raise UnreadableArtifact(f"{path.name} looks like an archive and cannot be listed: {error}") from error
    return False


def _is_hdf(path: Path) -> bool:
    """Return whether an HDF5 signature stands first, or behind what its users may put there: 512 bytes, 1024, ..."""
    with path.open("rb") as stream:
        size, place = os.fstat(stream.fileno()).st_size, 0
        while place < size:
            stream.seek(place)
            if stream.read(len(_HDF)) == _HDF:
                return True
            place = 2 * place or _USER_BLOCK
    return False


def _names_lambda(data: bytes) -> bool:
    plain = _ESCAPE.sub(lambda found: bytes([int(found[1], 16)]), data.translate(None, _BLANKS))
    return _LAMBDA.search(plain) is not None


def _mentions_lambda(path: Path) -> bool:
    tail = b""
    with path.open("rb") as stream:
        while block := stream.read(_HEAD):
            if _names_lambda(tail + block):
                return True
            tail = (tail + block.translate(None, _BLANKS))[-_OVERLAP:]
    return False
