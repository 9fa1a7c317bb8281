"""One sample as bytes: every field with its name, dtype and shape under the dataset's id and the sample's key.

The layout is ours and is specified byte by byte in ``docs/formats/dataset-commitment.md``. Everything is hashed as it
is stored, before any augmentation; labels and metadata are fields like the pixels. No two different samples share an
encoding: every variable part is length-prefixed, and fields stand in the order of their names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from blake3 import blake3

from holdfast.data.commitments.values import Value, typed
from holdfast.errors import InvalidConfig

ELEMENT_CONTEXT = "holdfast 2026 dataset element v1"
TAG_CONTEXT = "holdfast 2026 dataset field v1"
MAX_NAME = 4096  # bytes of a dataset id, a key or a field name
TAG = 8  # bytes kept of a field's digest: enough to say which field differs, not to vouch for it

Fields = Mapping[str, Any]
Schema = tuple[tuple[str, str, tuple[int, ...]], ...]  # name, dtype and shape of every field, in name order
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")


def u64(number: int) -> bytes:
    """Return ``number`` as eight bytes, least significant first."""
    return number.to_bytes(8, "little")


def prefixed(data: bytes) -> bytes:
    """Return ``data`` behind its length."""
    return len(data).to_bytes(8, "little") + data


def name_bytes(name: str, what: str = "name") -> bytes:
    """Return a dataset id, key or field name in UTF-8.

    Raises:
        InvalidConfig: empty, longer than 4096 bytes, a control character, or no UTF-8 form.
    """
    try:
        data = name.encode("utf-8")
    except (UnicodeEncodeError, AttributeError):
        raise InvalidConfig(f"the {what} {name!r} is no text with a UTF-8 form") from None
    if not 0 < len(data) <= MAX_NAME or _CONTROL.search(data):
        raise InvalidConfig(f"the {what} {name[:60]!r} is empty, too long, or holds control characters")
    return data


def index_key(index: int) -> str:
    """Return the key of a sample that has nothing better than its place: twelve digits, so that order is kept."""
    return f"{index:012d}"


@dataclass(frozen=True, slots=True)
class Element:
    """What a sample comes to: its digest and the bytes of its fields."""

    digest: bytes  # 32 bytes
    size: int  # bytes of all fields' data


class Encoder:
    """Hashes the samples of one dataset; the part of the encoding that all samples share is prepared once.

    Args:
        dataset: the id that is hashed into every element.
    """

    def __init__(self, dataset: str) -> None:
        self.dataset = dataset
        self._head = prefixed(name_bytes(dataset, "dataset id"))
        self._prefixes: dict[Schema, bytes] = {}

    def prefix(self, schema: Schema) -> bytes:
        """Return what precedes the key: the dataset id, and name, dtype and shape of every field in name order."""
        found = self._prefixes.get(schema)
        if found is None:
            found = self._head + prefixed(schema_bytes(schema))
            if len(self._prefixes) < 1024:  # variable shapes must not grow this without bound
                self._prefixes[schema] = found
        return found

    def element(self, key: str, fields: Fields) -> Element:
        """Return the digest and size of the sample ``key``.

        Raises:
            InvalidConfig: no fields, or a value that has no encoding; the key and the field are named.
        """
        return self.of_values(key, typed_fields(key, fields))

    def of_values(self, key: str, values: list[tuple[str, Value]]) -> Element:
        """Return the digest and size of a sample whose fields are typed already (:func:`typed_fields`)."""
        schema = tuple((name, value.dtype, value.shape) for name, value in values)
        parts = [self.prefix(schema), prefixed(name_bytes(key, "key"))]
        size = 0
        for _, value in values:
            parts.append(u64(len(value.data)))
            parts.append(value.data)
            size += len(value.data)
        return Element(blake3(b"".join(parts), derive_key_context=ELEMENT_CONTEXT).digest(), size)


def schema_bytes(schema: Schema) -> bytes:
    """Return the encoding of the fields' names, dtypes and shapes."""
    parts = [u64(len(schema))]
    for name, dtype, shape in schema:
        parts += [prefixed(name_bytes(name, "field name")), prefixed(dtype.encode()), u64(len(shape)), *map(u64, shape)]
    return b"".join(parts)


def typed_fields(key: str, fields: Fields) -> list[tuple[str, Value]]:
    """Return the fields in the order of their names' UTF-8 bytes, each as dtype, shape and bytes.

    Raises:
        InvalidConfig: there are none, or one has no encoding; the key and the field are named.
    """
    if not fields:
        raise InvalidConfig(f"the sample {key!r} has no fields")
    result = []
    for name in sorted(fields, key=lambda item: name_bytes(item, "field name")):
        try:
            result.append((name, typed(fields[name])))
        except InvalidConfig as error:
            raise InvalidConfig(f"field {name!r} of the sample {key!r}: {error}", hint=error.hint) from error
    return result


def field_tag(name: str, value: Value) -> bytes:
    """Return eight bytes that tell whether one field of a sample is the committed one; used to name what differs."""
    head = schema_bytes(((name, value.dtype, value.shape),))
    return blake3(prefixed(head) + prefixed(value.data), derive_key_context=TAG_CONTEXT).digest(TAG)


def field_tags(key: str, fields: Fields) -> dict[str, bytes]:
    """Return the tag of every field, in name order."""
    return dict(value_tags(typed_fields(key, fields)))


def value_tags(values: list[tuple[str, Value]]) -> tuple[tuple[str, bytes], ...]:
    """Return (name, tag) of fields that are typed already."""
    return tuple((name, field_tag(name, value)) for name, value in values)
