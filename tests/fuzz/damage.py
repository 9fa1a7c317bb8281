"""Damage to binary files, to containers of tensors and to whole folders."""

from __future__ import annotations

import json
import struct
from random import Random

from .mutations import mutate_bytes, mutate_structure

Files = dict[str, bytes]
_NUMBERS = (0, 1, 2, 7, 8, 31, 32, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**53, 2**62, 2**63, 2**64 - 1)
_HEADER_WORDS = (
    "dtype", "shape", "data_offsets", "__metadata__", "F32", "F64", "BF16", "I8", "U8", "BOOL", "F4", "F6_E2M3", "C64",
    "a", "b", "c", "format", "pt",
)  # fmt: skip
_NAMES = (
    "a.bin", "b/model.safetensors", "model.safetensors", "MODEL.safetensors", "config.json", "model.sig", "run.py",
    "lineage/x.bundle.json", "lineage/x.py", "model.outboard/x.obao", "model.outboard/model.safetensors.obao", ".git",
    ".gitignore", ".gitattributes", "config.json ", "readme", "weights.pt", "new\nline", "é.txt", "sub/more.bin",
    "empty", "adapter.gguf", "arrays.npz",
)  # fmt: skip


def mutate_binary(random: Random, data: bytes, front: int = 0) -> bytes:
    """Change numbers, bits and lengths; four times of five within the first ``front`` bytes, if that is not 0."""
    result = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        limit = min(front, len(result)) if front and random.random() < 0.8 else len(result)
        place = random.randrange(limit + 1)
        width = random.choice((1, 2, 4, 8))
        old = int.from_bytes(result[place : place + width], "little")
        number = random.choice((*_NUMBERS, old + 1, old - 1, old ^ (1 << random.randrange(8 * width)), old * 2))
        result[place : place + width] = (number % 2 ** (8 * width)).to_bytes(width, "little")
    return mutate_bytes(random, bytes(result)) if random.random() < 0.3 else bytes(result)


def mutate_safetensors(random: Random, data: bytes) -> bytes:
    """Damage bytes, the JSON of the header, or how the two parts join."""
    kind = random.randrange(4)
    length = int.from_bytes(data[:8], "little")
    if kind == 0:
        return mutate_binary(random, data, 8 + length)
    header, rest = data[8 : 8 + length], data[8 + length :]
    if kind == 1:
        header = mutate_bytes(random, header)
    else:
        header = _moved(random, header) if kind == 2 else mutate_structure(random, header, _HEADER_WORDS)
    if random.random() < 0.1:
        rest = mutate_bytes(random, rest)
    return struct.pack("<Q", len(header)) + header + rest


def _moved(random: Random, header: bytes) -> bytes:
    """Swap or reword two entries so that the bytes are still covered: the subtle lies."""
    value = json.loads(header)
    names = [name for name in value if name != "__metadata__"]
    one, other = random.choice(names), random.choice(names)
    kind = random.randrange(4)
    if kind == 0:
        value[one], value[other] = value[other], value[one]
    elif kind == 1:
        value[one]["shape"] = random.choice((value[one]["shape"][::-1], [*value[one]["shape"], 1]))
    elif kind == 2:
        value[one]["dtype"] = random.choice(_HEADER_WORDS)
    else:
        value[random.choice(_HEADER_WORDS)] = value.pop(one)
    return json.dumps(value).encode()


def mutate_tree(random: Random, files: Files) -> Files:
    """Change, lengthen, cut, rename, swap, remove or add files."""
    result = dict(files)
    name = random.choice(sorted(result))
    kind = random.randrange(9)
    if kind == 0:
        result[name] = _one_bit(random, result[name])
    elif kind == 1:
        result[name] = _container(random, name, result[name])
    elif kind == 2:
        result[name] += random.choice((b"\0", b"\n", bytes(32), result[name]))
    elif kind == 3:
        result[name] = result[name][: random.randrange(len(result[name]) + 1)]
    elif kind == 4:
        _put(result, random.choice((*_NAMES, name + random.choice((".", " ", "x")), name[:-1])), result.pop(name))
    elif kind == 5:
        del result[name]
    elif kind == 6:
        _put(result, random.choice(_NAMES), random.choice((b"", b"\0", b"{}", *files.values())))
    else:
        other = random.choice(sorted(result))
        result[name], result[other] = result[other], result[name] if kind == 7 else result[other]
    return result


def _one_bit(random: Random, data: bytes) -> bytes:
    if not data:
        return b"\0"
    result = bytearray(data)
    result[random.randrange(len(result))] ^= 1 << random.randrange(8)
    return bytes(result)


def _container(random: Random, name: str, data: bytes) -> bytes:
    return mutate_safetensors(random, data) if name.endswith(".safetensors") else mutate_binary(random, data)


def _put(files: Files, name: str, data: bytes) -> None:
    """Add a file unless a folder is there or a file in place of one of its folders."""
    parts = name.split("/")
    above = {"/".join(parts[:count]) for count in range(1, len(parts))}
    if name and not above & files.keys() and not any(other.startswith(f"{name}/") for other in files):
        files[name] = data
