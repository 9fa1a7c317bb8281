"""What was recorded, and what must not be mixed: a trace with its label, inputs, run and machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import torch

from holdfast.data import Dataset
from holdfast.errors import InvalidConfig
from holdfast.evidence import canonical
from holdfast.evidence.digest import digest_bytes
from holdfast.execution import Trace
from holdfast.numerics import bits

_SHORT = 32  # hexadecimal digits kept of a digest that names an input


@dataclass(frozen=True)
class Recording:
    """Outputs of one platform, and what they may share with others.

    Attributes:
        label: the platform, such as ``bf16``.
        trace: outputs of the inputs, in order.
        inputs: a name for each input, equal exactly where inputs are.
        run: one pass over all platforms; outputs of one run share its processes, caches and hour.
        machine: what computed them.
    """

    label: str
    trace: Trace
    inputs: tuple[str, ...]
    run: str = "run"
    machine: str = ""

    def __post_init__(self) -> None:
        if len(self.inputs) != len(self.trace.outputs):
            raise InvalidConfig(f"{self.label}: {len(self.inputs)} inputs do not fit {len(self.trace.outputs)} outputs")

    @classmethod
    def of(cls, label: str, trace: Trace, probes: Dataset | None = None, *, run: str = "run") -> Recording:
        """Return the recording of a trace; with its ``probes``, inputs are known also to those of other probe sets.

        Raises:
            InvalidConfig: probes other than those of the trace.
        """
        if probes is not None and probes.digest != trace.probe_digest:
            raise InvalidConfig(f"{label} was recorded on other probes")
        rows = range(len(trace.outputs))
        named = input_names(probes) if probes is not None else [f"{trace.probe_digest[:_SHORT]}/{row}" for row in rows]
        return cls(label, trace, tuple(named), run, machine_of(trace))

    @property
    def model(self) -> str:
        """Digest of the model."""
        return self.trace.model_digest


def input_names(probes: Dataset) -> list[str]:
    """Return a digest of each input as stored, (n,); no copy hides behind another preprocessing, which is left out."""
    return [digest_bytes(raw.contiguous().numpy().tobytes())[:_SHORT] for raw in probes.raw]


def machine_of(trace: Trace) -> str:
    """Return a name for the kind of machine: a digest of its processor, features and accelerators."""
    kept = {key: trace.platform.get(key) for key in ("machine", "cpu", "features", "gpu")}
    return digest_bytes(canonical.dumps(kept))[:16]


def merged(recordings: Sequence[Recording]) -> list[Recording]:
    """Join labels that no output can tell apart: those with equal bits wherever model, inputs and run are the same.

    Labels of a class are joined by `` = `` and its copies are left out. HSPI calls it an equivalence class.
    """
    classes = {item.label: {item.label} for item in recordings}
    for one, other in combinations(classes, 2):
        if _always_equal(one, other, recordings):
            joined = classes[one] | classes[other]
            classes.update(dict.fromkeys(joined, joined))
    renamed = [replace(item, label=" = ".join(sorted(classes[item.label]))) for item in recordings]
    first: dict[tuple[object, ...], Recording] = {}
    for item in renamed:
        first.setdefault((item.label, item.model, item.inputs, item.run), item)
    return list(first.values())


def _always_equal(one: str, other: str, recordings: Sequence[Recording]) -> bool:
    first, second = ([item for item in recordings if item.label == label] for label in (one, other))
    pairs = [
        bits.bit_equal(a.trace.outputs, b.trace.outputs)
        for a in first
        for b in second
        if (a.model, a.inputs, a.run) == (b.model, b.inputs, b.run) and a.trace.outputs.dtype == torch.float32
    ]
    return bool(pairs) and all(pairs)


def as_classes(recordings: Sequence[Recording], labels: Sequence[str]) -> list[Recording]:
    """Rename recordings to the classes of ``labels`` that hold their label; others keep theirs."""
    classes = {part: label for label in labels for part in label.split(" = ")}
    return [replace(item, label=classes.get(item.label, item.label)) for item in recordings]
