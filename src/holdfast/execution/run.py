"""Running a model on known inputs and keeping the exact bits that come out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from safetensors.torch import save as safetensors_bytes
from torch import Tensor, nn

from holdfast._files import read_bytes, write_atomic
from holdfast.data import Dataset, Text, require_data
from holdfast.errors import DigestMismatch, InvalidConfig, UnreadableArtifact, UnsupportedVersion
from holdfast.evidence import canonical
from holdfast.evidence.digest import digest_bytes
from holdfast.execution.platform import describe_platform
from holdfast.models import manifest_of
from holdfast.models.outputs import logits_of, require_scores
from holdfast.models.subject import evaluating, require_module, require_values

TRACE_TYPE = "holdfast.trace/v1"
Progress = Callable[[int, int], None]
Held = TypeVar("Held", Dataset, Text)


@dataclass(frozen=True)
class Trace:
    """Output bits of one model on one set of probes, and where they were computed.

    Attributes:
        outputs: float tensor, shape (n, classes).
        probe_digest: digest of the inputs, in order.
        model_digest: digest of the model's manifest.
        platform: JSON form of the :class:`~holdfast.execution.platform.Platform`.
    """

    outputs: Tensor
    probe_digest: str
    model_digest: str
    platform: dict[str, Any]

    def save(self, folder: Path | str) -> None:
        """Write ``outputs.safetensors`` and ``trace.json``; the latter binds the former by digest."""
        data = safetensors_bytes({"outputs": self.outputs.contiguous()})
        write_atomic(Path(folder) / "outputs.safetensors", data)
        value = {
            "type": TRACE_TYPE,
            "outputs": digest_bytes(data),
            "probes": self.probe_digest,
            "model": self.model_digest,
            "platform": self.platform,
        }
        write_atomic(Path(folder) / "trace.json", canonical.dumps(value))

    @classmethod
    def load(cls, folder: Path | str) -> Trace:
        """Read a trace back.

        Raises:
            UnsupportedVersion: not a trace of this version.
            DigestMismatch: the outputs are not the ones the description was written for.
        """
        value = canonical.loads(read_bytes(Path(folder) / "trace.json", "trace"), what="trace.json")
        if not isinstance(value, dict) or value.get("type") != TRACE_TYPE:
            raise UnsupportedVersion(f"{folder} holds no {TRACE_TYPE}")
        data = read_bytes(Path(folder) / "outputs.safetensors", "trace outputs")
        if digest_bytes(data) != value["outputs"]:
            raise DigestMismatch(f"outputs.safetensors in {folder} differs from its digest in trace.json")
        try:
            outputs = parse_safetensors(data)["outputs"]
        except (SafetensorError, KeyError) as error:
            raise UnreadableArtifact(f"{folder} holds no readable outputs: {error}") from error
        return cls(outputs, value["probes"], value["model"], value["platform"])


def run(model: nn.Module, data: Dataset, *, batch_size: int = 64, progress: Progress | None = None) -> Trace:
    """Run ``model`` over ``data`` in order and return the trace of its outputs."""
    outputs = predict(model, data, batch_size=batch_size, progress=progress)
    return Trace(outputs, data.digest, manifest_of(model).digest, describe_platform().to_json())


def predict(model: nn.Module, data: Dataset, *, batch_size: int = 128, progress: Progress | None = None) -> Tensor:
    """Return the outputs of ``model`` in evaluation mode, shape (n, classes).

    Raises:
        InvalidConfig: the dataset is empty, or the model does not return (batch, classes).
    """
    parts: list[Tensor] = []

    def keep(output: object) -> None:
        parts.append(require_scores(logits_of(output)))

    pass_over(model, data, keep, batch_size=batch_size, progress=progress)
    return torch.cat(parts)


def pass_over(
    model: nn.Module,
    data: Dataset,
    take: Callable[[object], None] | None = None,
    *,
    batch_size: int = 128,
    progress: Progress | None = None,
) -> None:
    """Run ``model`` in evaluation mode over all of ``data``, and call ``take``, if any, with what it returns.

    Raises:
        InvalidConfig: the dataset is empty.
    """
    if len(data) == 0:
        raise InvalidConfig("the dataset is empty")
    done = 0
    with torch.no_grad(), evaluating(model):
        for images, _ in data.batches(batch_size):
            output = model(images)
            if take is not None:
                take(output)
            done += len(images)
            if progress is not None:
                progress(done, len(data))


def device_of(model: nn.Module) -> torch.device:
    """Return where ``model`` keeps its first parameter or buffer; the CPU if it has none.

    Raises:
        InvalidConfig: it is no module.
    """
    require_module(model)
    first = next((item for items in (model.parameters(), model.buffers()) for item in items), None)
    return torch.device("cpu") if first is None else first.device


def beside(model: nn.Module, data: Held) -> Held:
    """Return ``data`` on the device of ``model``, where they then stay from pass to pass.

    Raises:
        InvalidConfig: these are no data, or that device is meta, where tensors have no values.
    """
    require_data(data)
    place = device_of(model)
    if place.type == "meta":
        require_values(model)
    return data if data.device == place else data.to(place)


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread: small nets run faster, results do not depend on the core count, and workers can fork."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
