"""Examples for a classifier: the bits of a few consecutive inputs, one platform, with what they come from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from holdfast.errors import InvalidConfig
from holdfast.evidence.digest import digest_bytes
from holdfast.identification.distribution.features import Bits, float_bits, grouped
from holdfast.identification.distribution.recordings import Recording

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Examples:
    """``bits`` (n, size * words * 32) and, for each row, where it comes from.

    Attributes:
        size: inputs of one example (``no_logits`` in HSPI's code).
        inputs: the names of the inputs of each example.
    """

    bits: Bits
    size: int
    labels: tuple[str, ...]
    inputs: tuple[frozenset[str], ...]
    runs: tuple[str, ...]
    machines: tuple[str, ...]
    models: tuple[str, ...]

    @classmethod
    def of(cls, recordings: Sequence[Recording], *, size: int = 10) -> Examples:
        """Cut recordings into examples of ``size`` consecutive inputs; what is left over is dropped.

        Raises:
            InvalidConfig: no recordings, too few outputs, or outputs of different shapes.
        """
        if not recordings:
            raise InvalidConfig("there are no recordings to learn from")
        if len({item.trace.outputs.shape[1:] for item in recordings}) > 1:
            raise InvalidConfig("recordings have outputs of different shapes", hint="use nets with as many classes")
        rows = [grouped(float_bits(item.trace.outputs), size) for item in recordings]
        counts = [len(part) for part in rows]
        inputs = [frozenset(names) for item in recordings for names in _chunks(item.inputs, size)]
        return cls(
            np.concatenate(rows),
            size,
            _repeated((item.label for item in recordings), counts),
            tuple(inputs),
            _repeated((item.run for item in recordings), counts),
            _repeated((item.machine for item in recordings), counts),
            _repeated((item.model for item in recordings), counts),
        )

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Indices | Sequence[int]) -> Examples:
        """Return the examples at ``indices``, in that order."""
        places = np.asarray(indices, dtype=np.int64)

        def kept(values: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(values[place] for place in places)

        return Examples(
            self.bits[places],
            self.size,
            kept(self.labels),
            tuple(self.inputs[place] for place in places),
            kept(self.runs),
            kept(self.machines),
            kept(self.models),
        )

    @property
    def classes(self) -> tuple[str, ...]:
        """The labels that occur, sorted, so that no hash decides on their order."""
        return tuple(sorted(set(self.labels)))

    @property
    def words(self) -> int:
        """Output words of one input."""
        return int(self.bits.shape[1]) // (32 * self.size)

    @cached_property
    def row_digests(self) -> tuple[str, ...]:
        """A digest of the bits of each example."""
        packed = np.packbits(self.bits, axis=1)
        return tuple(digest_bytes(row.tobytes())[:32] for row in packed)

    @property
    def digest(self) -> str:
        """BLAKE3 (hex) of labels and bits, whatever their order."""
        lines = sorted(f"{row} {label}" for row, label in zip(self.row_digests, self.labels, strict=True))
        return digest_bytes("\n".join(lines).encode())

    def sources(self, key: str) -> tuple[frozenset[str], ...]:
        """Return what each example comes from: its ``inputs``, ``run``, ``machine`` or ``model``.

        Raises:
            InvalidConfig: another key.
        """
        single = {"run": self.runs, "machine": self.machines, "model": self.models}
        if key == "inputs":
            return self.inputs
        if key not in single:
            raise InvalidConfig(f"examples have no {key!r} to split by", hint="inputs, run, machine or model")
        return tuple(frozenset({value}) for value in single[key])


def _chunks(names: tuple[str, ...], size: int) -> Iterable[tuple[str, ...]]:
    return (names[start : start + size] for start in range(0, len(names) // size * size, size))


def _repeated(values: Iterable[str], counts: Sequence[int]) -> tuple[str, ...]:
    return tuple(value for value, count in zip(values, counts, strict=True) for _ in range(count))
