"""Where a tensor lies in a file: what every container's index gives."""

from __future__ import annotations

from dataclasses import dataclass


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
