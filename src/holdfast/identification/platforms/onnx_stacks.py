"""onnxruntime and OpenVINO: the same weights as an ONNX graph, on the kernels of other projects.

``options`` of onnxruntime: ``optimisation`` is ``disable``, ``basic``, ``extended`` or ``all``. Of OpenVINO:
``precision`` is ``f32``, ``bf16`` or ``default``, which is bf16 on processors that have it.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from holdfast._extras import extra
from holdfast.data import Dataset
from holdfast.errors import InvalidConfig, Unavailable
from holdfast.evidence.digest import digest_bytes
from holdfast.identification.platforms.setting import LocalPlatform

_OPSET = 17
_EXTRAS = {"onnx": "ort", "onnxruntime": "ort", "openvino": "openvino"}
_LEVELS = {"disable": "DISABLE_ALL", "basic": "ENABLE_BASIC", "extended": "ENABLE_EXTENDED", "all": "ENABLE_ALL"}
_Run = Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]


def exported(model: nn.Module, example: Tensor) -> bytes:
    """Return ``model`` as ONNX for inputs of the shape of ``example``, batch included.

    Raises:
        MissingExtra: onnx, through which torch writes, is not installed.
        Unavailable: an operation that the exporter does not know.
    """
    _package("onnx")
    file = io.BytesIO()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter's own deprecations and tracing remarks
            names = {"input_names": ["inputs"], "output_names": ["outputs"]}
            torch.onnx.export(model.eval(), (example,), file, opset_version=_OPSET, dynamo=False, **names)  # type: ignore[arg-type]
    except (RuntimeError, TypeError, ValueError) as error:
        raise Unavailable(f"the model does not export to ONNX: {str(error).splitlines()[0]}") from error
    return file.getvalue()


def outputs_of(platform: LocalPlatform, model: nn.Module, probes: Dataset) -> tuple[Tensor, dict[str, str]]:
    """Return float32 outputs (n, classes), and the digest of each exported graph by batch size.

    Raises:
        MissingExtra: the runtime is not installed.
        Unavailable: the model does not export, or the runtime does not take it.
    """
    start = {"onnxruntime": _onnxruntime, "openvino": _openvino}[platform.runtime]
    _package(platform.runtime)  # before the export, which takes its time
    ready: dict[int, _Run] = {}
    graphs, parts = {}, []
    for images, _ in probes.batches(platform.batch_size):
        if len(images) not in ready:
            graph = exported(model, images)
            graphs[str(len(images))] = digest_bytes(graph)
            ready[len(images)] = start(platform, graph)
        parts.append(torch.from_numpy(ready[len(images)](images.numpy()).copy()))
    return torch.cat(parts).float(), graphs


def _package(name: str) -> Any:
    return extra(name, name=_EXTRAS[name], needs=f"{name} is not installed")


def _onnxruntime(platform: LocalPlatform, graph: bytes) -> _Run:
    runtime = _package("onnxruntime")
    level = platform.options.get("optimisation", "all")
    if level not in _LEVELS:
        raise InvalidConfig(f"no optimisation level {level!r}", hint=f"there are {', '.join(_LEVELS)}")
    options = runtime.SessionOptions()
    options.graph_optimization_level = getattr(runtime.GraphOptimizationLevel, f"ORT_{_LEVELS[level]}")
    options.intra_op_num_threads, options.inter_op_num_threads = platform.threads, 1
    options.log_severity_level = 3
    session = runtime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(["outputs"], {"inputs": inputs})[0]


def _openvino(platform: LocalPlatform, graph: bytes) -> _Run:
    runtime = _package("openvino")
    settings: dict[str, int | str] = {"INFERENCE_NUM_THREADS": platform.threads, "NUM_STREAMS": 1}
    if platform.options["precision"] != "default":
        settings["INFERENCE_PRECISION_HINT"] = platform.options["precision"]
    core = runtime.Core()
    compiled = core.compile_model(core.read_model(model=graph, weights=b""), "CPU", settings)
    return lambda inputs: compiled([inputs])[0]
