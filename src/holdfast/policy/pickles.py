"""Whether bytes are a pickle that imports something and acts on it, read opcode by opcode; nothing of them is run.

The reader is laxer than ``pickletools``: that refuses arguments which Python's own unpickler takes (``I0x10``), and
stops at the first pickle of several, so that code could hide behind either.
"""

from __future__ import annotations

import io
import pickletools
import re
import struct
from collections.abc import Iterator
from typing import IO

_IMPORTS = {"GLOBAL", "STACK_GLOBAL", "EXT1", "EXT2", "EXT4"}
_CALLS = {"REDUCE", "OBJ", "NEWOBJ", "NEWOBJ_EX", "BUILD", "SETITEM", "SETITEMS"}
_LENGTHS = {-2: "<B", -3: "<i", -4: "<I", -5: "<Q"}  # how pickletools marks an argument behind its length
_LINE = -1
_OPCODES = {opcode.code: opcode for opcode in pickletools.opcodes}
_NUMBER = re.compile(rb"[\s0-9a-fA-FxXoOlL_+-]+")
_LINES = {
    "INT": _NUMBER,
    "LONG": _NUMBER,
    "GET": _NUMBER,
    "PUT": _NUMBER,
    "FLOAT": re.compile(rb"[\s0-9a-zA-Z_.+-]+"),
    "STRING": re.compile(rb"""['"].*""", re.DOTALL),
}
_MOST_OPCODES, _LONGEST_LINE, _LARGEST = 1_000_000, 64 << 20, 1 << 60
UNCERTAIN = "UNCERTAIN"  # stands for bytes that are too long to be told from a pickle


def acts(stream: IO[bytes]) -> bool:
    """Return whether a stream, read from its beginning as one pickle after another, imports a name and acts on it.

    To act is to call it, to set its state, or to put items into it. What is too long to be followed counts as acting.
    """
    imported = gathered = marked = between = False
    for name in _opcodes(stream):
        if name == UNCERTAIN or (between and name == "PROTO"):
            return True
        between = name == "STOP"
        if between:
            imported = gathered = marked = False
        marked |= name == "MARK"
        gathered |= name in ("MARK", "EMPTY_DICT") or "TUPLE" in name
        imported |= name in _IMPORTS
        if (imported and gathered and name in _CALLS) or (marked and name == "INST"):
            return True
    return False


def bytes_act(data: bytes) -> bool:
    """Return the same of bytes."""
    return acts(io.BytesIO(data))


def _opcodes(stream: IO[bytes]) -> Iterator[str]:
    """Yield the names of the opcodes, as far as the bytes are such."""
    for _ in range(_MOST_OPCODES):
        opcode = _OPCODES.get(stream.read(1).decode("latin-1"))
        if opcode is None:
            return
        taken = True if opcode.arg is None else _take(stream, opcode.name, opcode.arg.n)
        if not taken:
            if taken is None:
                yield UNCERTAIN
            return
        yield opcode.name
    yield UNCERTAIN


def _take(stream: IO[bytes], name: str, size: int) -> bool | None:
    """Pass over an argument; return whether it can be one, None where that cannot be told."""
    if size == _LINE:
        first = _line(stream, name)
        return _line(stream, name) if first and name in ("GLOBAL", "INST") else first
    if size < 0:
        form = struct.Struct(_LENGTHS[size])
        head = stream.read(form.size)
        if len(head) < form.size:
            return False
        (size,) = form.unpack(head)
    if not 0 <= size < _LARGEST:
        return False
    stream.seek(size, io.SEEK_CUR)  # what lies past the end shows in the next byte, which is none
    return True


def _line(stream: IO[bytes], name: str) -> bool | None:
    line = stream.readline(_LONGEST_LINE)
    if not line.endswith(b"\n"):
        return None if len(line) == _LONGEST_LINE else False
    pattern = _LINES.get(name)
    return pattern is None or pattern.fullmatch(line[:-1]) is not None
