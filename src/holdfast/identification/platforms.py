"""Platforms that one machine can be: settings that change which kernels run, each a real software stack."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from holdfast._files import write_atomic
from holdfast._registry import unknown
from holdfast.data import Dataset
from holdfast.errors import Unavailable
from holdfast.evidence import canonical
from holdfast.execution import Progress, Trace, describe_platform, predict
from holdfast.execution.fit import require_fit
from holdfast.models import manifest_of, save

_TIMEOUT = 300  # seconds for a platform that needs a process of its own


@dataclass(frozen=True, slots=True)
class LocalPlatform:
    """One way to run a model here."""

    name: str
    batch_size: int = 32
    dtype: str = "float32"
    channels_last: bool = False
    onednn: bool = True
    environment: dict[str, str] = field(default_factory=dict)  # read at start-up, so needs a process of its own


LOCAL_PLATFORMS = {
    item.name: item
    for item in (
        LocalPlatform("default"),
        LocalPlatform("batch-1", batch_size=1),
        LocalPlatform("channels-last", channels_last=True),
        LocalPlatform("onednn-off", onednn=False),
        LocalPlatform("bf16", dtype="bfloat16"),
        LocalPlatform("fp16", dtype="float16"),
        LocalPlatform("aten-default", environment={"ATEN_CPU_CAPABILITY": "default"}),
        LocalPlatform("onednn-avx2", environment={"ONEDNN_MAX_CPU_ISA": "AVX2"}),
        LocalPlatform("onednn-sse41", environment={"ONEDNN_MAX_CPU_ISA": "SSE41"}),
    )
}


def collect_platforms(
    model: nn.Module, probes: Dataset, names: Iterable[str], *, progress: Progress | None = None
) -> dict[str, Trace]:
    """Trace ``model`` on ``probes`` on each named local platform.

    Raises:
        UnknownName: a platform that is not in :data:`LOCAL_PLATFORMS`.
        InvalidConfig: the model does not take the probes.
        Unavailable: a platform's own process failed.
    """
    require_fit(model, probes)
    wanted = list(names)
    traces = {}
    for done, name in enumerate(wanted):
        if name not in LOCAL_PLATFORMS:
            raise unknown("platform", name, LOCAL_PLATFORMS)
        traces[name] = trace_on(LOCAL_PLATFORMS[name], model, probes)
        if progress is not None:
            progress(done + 1, len(wanted))
    return traces


def trace_on(platform: LocalPlatform, model: nn.Module, probes: Dataset, *, fresh: bool = False) -> Trace:
    """Trace ``model`` on one platform; ``fresh`` (or start-up settings) takes a new process."""
    if fresh or platform.environment:
        return _in_own_process(platform, model, probes)
    digest = manifest_of(model).digest
    subject: nn.Module = _Cast(copy.deepcopy(model), platform)
    with _settings(platform):
        outputs = predict(subject, probes, batch_size=platform.batch_size)
        return Trace(outputs, probes.digest, digest, describe_platform().to_json() | {"setting": platform.name})


class _Cast(nn.Module):
    """Runs a model in another dtype or memory layout and returns float32."""

    def __init__(self, model: nn.Module, platform: LocalPlatform) -> None:
        super().__init__()
        self._dtype = getattr(torch, platform.dtype)
        self._layout = torch.channels_last if platform.channels_last else torch.contiguous_format
        self.model = model.to(self._dtype)
        if platform.channels_last:
            self.model = self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images.to(self._dtype).contiguous(memory_format=self._layout)).float()  # type: ignore[no-any-return]


@contextmanager
def _settings(platform: LocalPlatform) -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with warnings.catch_warnings():
            # torch warns about a TF32 switch for other vendors' GPUs whenever the oneDNN flags are set
            warnings.filterwarnings("ignore", message="TF32 acceleration", category=UserWarning)
            with torch.backends.mkldnn.flags(enabled=platform.onednn):
                yield
    finally:
        torch.set_num_threads(threads)


def _in_own_process(platform: LocalPlatform, model: nn.Module, probes: Dataset) -> Trace:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save(model, folder / "model")
        save_file({"raw": probes.raw.contiguous(), "labels": probes.labels.contiguous()}, folder / "probes.safetensors")
        write_atomic(folder / "probes.json", canonical.dumps(probes.preprocessing.to_json()))
        command = [sys.executable, "-m", "holdfast.identification.collect", str(folder), platform.name]
        environment = os.environ | platform.environment | {"OMP_NUM_THREADS": "1"}
        try:
            subprocess.run(command, env=environment, check=True, capture_output=True, timeout=_TIMEOUT)  # noqa: S603
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            detail = (error.stderr or b"").decode(errors="replace").strip().splitlines()[-1:]
            raise Unavailable(f"the platform {platform.name} did not run: {' '.join(detail) or error}") from error
        found = Trace.load(folder / "trace")
    # the child rebuilt the probes from bytes: their name and classes are not part of what it was sent
    return Trace(found.outputs, probes.digest, found.model_digest, found.platform)
