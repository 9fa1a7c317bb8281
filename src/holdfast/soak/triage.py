"""What a wrong output was: how it differs, whether it stays, which stored tensor it came from, whether that is mended.

The order matters. The batch runs again before anything is touched, which tells what comes and goes from what stays.
Then every tensor that it was computed from, and the golden output itself, is held against its digest; only those that
changed are written back, from a file whose bytes are verified as they are read. A last run shows whether that was it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor

from holdfast.execution.compare import compare
from holdfast.numerics import bits
from holdfast.signing.resident import Audit, Root
from holdfast.signing.resident.incident import Incident
from holdfast.soak.benches import Bench
from holdfast.soak.golden import Golden, Resident, StoredGolden

SHOWN = 509  # errors of one iteration that get a line, as in the logs of others


class Verdict(StrEnum):
    """What became of a mismatch."""

    TRANSIENT = "transient"  # the same batch came out right the next time, and nothing stored had changed
    STORED = "stored"  # weights or inputs had changed; they are mended, and the batch comes out right
    GOLDEN = "golden"  # the golden output in memory had changed, not the computation
    PERSISTENT = "persistent"  # it stays wrong with every stored bit right: the device, or its software


@dataclass(frozen=True, slots=True)
class Difference:
    """How one output differs from the golden one.

    Attributes:
        lines: the texts of #ERR lines, at most 509.
        rows: the first of the samples (or rows of a kernel's output) that differ, within the batch.
        errors: how many the program counts: changed decisions and differing samples, or differing elements.
        critical: decisions that changed, among finite samples; ``nonfinite`` are the samples with NaN or infinity.
        elements: values with other bits.
        max_relative: largest difference over the largest golden magnitude of its row, of the finite rows.
    """

    lines: tuple[str, ...]
    rows: tuple[int, ...]
    errors: int
    critical: int
    nonfinite: int
    elements: int
    max_relative: float

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form, without the lines."""
        return {key: value for key, value in asdict(self).items() if key != "lines"}


def differs(golden: Tensor, observed: Tensor) -> bool:
    """Say whether two outputs differ in shape, dtype or any bit."""
    return golden.shape != observed.shape or golden.dtype != observed.dtype or not bits.bit_equal(golden, observed)


def describe_difference(bench: Bench, batch: int, golden: Tensor, observed: Tensor) -> Difference:
    """Describe outputs of shape (rows, columns) that differ; another shape is one error and says no more."""
    golden, observed = golden.cpu(), observed.cpu()
    if golden.shape != observed.shape or golden.dtype != observed.dtype:
        text = f"batch:{batch}  shape g:{tuple(golden.shape)} o:{tuple(observed.shape)}"
        return Difference((text,), (), 1, int(bench.decides), 0, observed.numel(), 0.0)
    found = compare(golden, observed)
    rows = (~found.bit_equal).nonzero().flatten().tolist()
    changed = [row for row in rows if bench.decides and found.top1_changed[row] and not found.nonfinite[row]]
    places = (bits.int_view(golden.contiguous()) != bits.int_view(observed.contiguous())).nonzero()
    if bench.decides:
        lines = [_decision(bench, batch, row, golden, observed) for row in changed[:SHOWN]]
        lines += [_sample(batch, row, golden[row], observed[row]) for row in rows[:SHOWN]]
        errors = len(changed) + len(rows)
    else:
        lines = [_element(place, golden, observed) for place in places[:SHOWN].tolist()]
        errors = len(places)
    finite = found.max_relative[~found.nonfinite]
    worst = float(finite.max()) if len(finite) else 0.0
    return Difference(
        tuple(lines[:SHOWN]), tuple(rows[:SHOWN]), errors, len(changed), int(found.nonfinite.sum()), len(places), worst
    )


def _decision(bench: Bench, batch: int, row: int, golden: Tensor, observed: Tensor) -> str:
    per_sample = len(golden) // len(bench.labels[batch]) if bench.labels else 0
    label = int(bench.labels[batch][row // per_sample]) if per_sample else -1
    found = f"g:{int(golden[row].argmax())} o:{int(observed[row].argmax())} gt:{label}"
    return f"critical batch:{batch} imgid:{row}  i:0 {found}"


def _sample(batch: int, row: int, golden: Tensor, observed: Tensor) -> str:
    difference = golden.double() - observed.double()
    return f"batch:{batch} imgid:{row}  output_t {_range(observed)} diff_t {_range(difference)}"


def _range(values: Tensor) -> str:
    finite = values[torch.isfinite(values)].double()
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 0.0)
    flags = f"nan:{int(torch.isnan(values).any())} inf:{int(torch.isinf(values).any())}"
    return f"{flags} min:{low:.6e} max:{high:.6e}"


def _element(place: list[int], golden: Tensor, observed: Tensor) -> str:
    row, column = place
    at = f"({row}, {column})"
    return f"i:{at} g:{float(golden[row, column]):.6e} o:{float(observed[row, column]):.6e}"


class Triage:
    """One bench in a worker's memory, beside what it must be.

    Args:
        bench: on its device.
        golden: whose outputs are loaded, and which every repair comes from.
    """

    def __init__(self, bench: Bench, golden: Golden) -> None:
        self._data, weights = golden.source(f"{bench.name}/"), golden.source(f"{bench.name}/model/")
        device = bench.inputs[0].device
        outputs = [self._data.tensor(f"golden_{place}").to(device) for place in range(len(bench.inputs))]
        resident = Resident(bench.inputs, outputs)
        self.bench = Bench(
            bench.name, bench.module, tuple(resident.get_buffer(f"input_{k}") for k in range(len(outputs))),
            bench.decides, bench.labels, bench.hardened,
        )  # fmt: skip
        self.golden = tuple(resident.get_buffer(f"golden_{place}") for place in range(len(outputs)))
        self._audits = (
            Audit(resident, _roots(resident, self._data, golden, f"{bench.name}/"), source=self._data),
            Audit(bench.module, _roots(bench.module, weights, golden, f"{bench.name}/model/"), source=weights),
        )

    def wrong(self, batch: int, observed: Tensor) -> bool:
        """Say whether an output is not the golden one, bit for bit."""
        return differs(self.golden[batch], observed)

    def audit(self) -> tuple[Incident, ...]:
        """Hold every stored tensor against its digest; write back those that changed, and only them."""
        return tuple(incident for audit in self._audits for incident in audit.sweep().incidents)

    def judge(self, batch: int) -> tuple[Verdict, tuple[Incident, ...]]:
        """Tell what a mismatch on ``batch`` was, and mend what can be mended."""
        stays = self.wrong(batch, self.bench.run(batch))
        incidents = self.audit()
        if incidents and not self.wrong(batch, self.bench.run(batch)):
            only_golden = all(incident.tensor.startswith("golden_") for incident in incidents)
            return (Verdict.GOLDEN if only_golden else Verdict.STORED), incidents
        return (Verdict.PERSISTENT if stays or incidents else Verdict.TRANSIENT), incidents


def _roots(module: torch.nn.Module, source: StoredGolden, golden: Golden, prefix: str) -> tuple[Root, ...]:
    from holdfast.models.tensors import resident_tensors

    return tuple(
        Root(name, tensor, golden.digests[prefix + name], tensor.numel() * tensor.element_size())
        for name, tensor in resident_tensors(module).items()
    )
