"""Tracing a model on local platforms: in this process where the setting allows it, else in one of its own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from holdfast._registry import unknown
from holdfast.data import Dataset
from holdfast.errors import InvalidConfig, Unavailable
from holdfast.execution import Progress, Trace, describe_platform
from holdfast.execution.fit import require_fit
from holdfast.identification.platforms import torch_stacks
from holdfast.identification.platforms.catalogue import LISTED_BY, LOCAL_PLATFORMS
from holdfast.identification.platforms.knobs import asked
from holdfast.identification.platforms.process import Case, traces_in_own_process
from holdfast.identification.platforms.setting import LocalPlatform
from holdfast.identification.platforms.versions import versions_of
from holdfast.models import manifest_of


def collect_platforms(
    model: nn.Module, probes: Dataset, names: Iterable[str], *, progress: Progress | None = None
) -> dict[str, Trace]:
    """Trace ``model`` on ``probes`` on each named local platform.

    Raises:
        UnknownName: a platform that is not in :data:`LOCAL_PLATFORMS`.
        InvalidConfig: the model does not take the probes.
        Unavailable: a platform cannot run here; a runtime that is not installed names the extra it is in.
    """
    require_fit(model, probes)
    wanted = list(names)
    if strange := [name for name in wanted if name not in LOCAL_PLATFORMS]:
        raise unknown("platform", strange[0], LOCAL_PLATFORMS, listed_by=LISTED_BY)
    traces = {}
    for done, name in enumerate(wanted):
        traces[name] = trace_on(LOCAL_PLATFORMS[name], model, probes)
        if progress is not None:
            progress(done + 1, len(wanted))
    return traces


def trace_on(platform: LocalPlatform, model: nn.Module, probes: Dataset, *, fresh: bool = False) -> Trace:
    """Trace ``model`` on one platform; ``fresh`` (or start-up settings) takes a new process."""
    if fresh or platform.environment:
        found = traces_in_own_process(platform, [Case("model", model, probes)])["model"]
        if not isinstance(found, Trace):
            raise found
        return found
    return trace_here(platform, model, probes)


def trace_here(platform: LocalPlatform, model: nn.Module, probes: Dataset) -> Trace:
    """Trace in this process, whatever start-up variables the platform names."""
    torch_stacks.require_known(platform)
    _require_batch(platform, probes)
    digest = manifest_of(model).digest
    outputs, described = _computed(platform, model, probes)
    described |= {"setting": platform.name, "runtime": versions_of(platform.runtime)}
    if knobs := asked(platform):
        described |= {"set": knobs}
    return Trace(outputs, probes.digest, digest, described)


def _require_batch(platform: LocalPlatform, probes: Dataset) -> None:
    """Refuse a batch that is asked for and that so few probes do not fill: it would be the default one."""
    if platform.batch_size != LocalPlatform("default").batch_size and platform.batch_size > len(probes):
        raise Unavailable(
            f"{len(probes)} probes fill no batch of {platform.batch_size}",
            hint=f"--probes {platform.batch_size} or more",
        )


def _computed(platform: LocalPlatform, model: nn.Module, probes: Dataset) -> tuple[Tensor, dict[str, Any]]:
    if platform.runtime == "torch":
        return torch_stacks.outputs_of(platform, model, probes)
    if platform.runtime == "numpy":
        from holdfast.identification.platforms import numpy_stacks

        numpy_stacks.require_effective(platform)
        return numpy_stacks.outputs_of(platform, model, probes), describe_platform().to_json()
    if platform.runtime in ("onnxruntime", "openvino"):
        from holdfast.identification.platforms import onnx_stacks

        with torch.no_grad():
            outputs, graphs = onnx_stacks.outputs_of(platform, model, probes)
        return outputs, describe_platform().to_json() | {"graphs": graphs}
    raise InvalidConfig(f"no runtime {platform.runtime!r}", hint="torch, numpy, onnxruntime or openvino")
