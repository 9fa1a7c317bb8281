"""Where a tensor lies in a file: what every container's index gives, and how an index reads its file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Read = Callable[[int, int], bytes]  # (offset, length) within the file -> exactly those bytes
MOST = 2**53  # sides and offsets stay below: what JSON numbers hold exactly, in every reader


@dataclass(frozen=True, slots=True)
class Slot:
    """One tensor of a container: ``offset`` (bytes, from the start of the file), ``length`` (bytes) and meaning.

    ``dtype`` is the container's own word in lower case (``f32``, ``bf16``, ``i8``, ``q4_k``); ``shape`` is row-major.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    length: int
