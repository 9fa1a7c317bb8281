"""numpy with OpenBLAS: a traced torch model, node by node, on numpy's own kernels.

``options``: ``contraction`` is ``blas`` (matmul) or ``einsum`` (numpy's own loops, which no OpenBLAS setting reaches).
OpenBLAS reads ``OPENBLAS_CORETYPE`` and ``OPENBLAS_NUM_THREADS`` at start-up, numpy ``NPY_DISABLE_CPU_FEATURES``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from holdfast.data import Dataset
from holdfast.errors import InvalidConfig, Unavailable
from holdfast.identification.platforms.numpy_layers import FUNCTIONS, LAYERS, METHODS, Kernels
from holdfast.identification.platforms.setting import LocalPlatform

_SIMD = "NPY_DISABLE_CPU_FEATURES"


def outputs_of(platform: LocalPlatform, model: nn.Module, probes: Dataset) -> Tensor:
    """Return float32 outputs (n, classes).

    Raises:
        Unavailable: the model branches on its input, or has a layer or function without a numpy twin here.
    """
    run = _Numpy(_traced(model), Kernels(platform.options["contraction"])).run
    parts = [run(images.numpy()) for images, _ in probes.batches(platform.batch_size)]
    outputs = torch.from_numpy(np.ascontiguousarray(np.concatenate(parts)))
    if outputs.dim() != 2 or outputs.dtype != torch.float32:
        raise InvalidConfig(f"the model gives {outputs.dtype} of shape {tuple(outputs.shape)}, not (batch, classes)")
    return outputs


def environment_of(platform: LocalPlatform) -> dict[str, str]:
    """Return the start-up variables, with a level of instructions spelled out as the features to switch off.

    numpy refuses to switch off what it was not built with or the processor does not have, so both are asked.
    """
    variables = dict(platform.environment)
    if _SIMD in variables:
        variables[_SIMD] = " ".join(_beyond(variables[_SIMD]))
    return variables


def _beyond(level: str) -> list[str]:
    """Return the dispatched features above ``baseline`` or ``avx2``."""
    here = np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])
    return here if level == "baseline" else [name for name in here if name.startswith(("AVX512", "X86_V4"))]


def require_effective(platform: LocalPlatform) -> None:
    """Raise :class:`Unavailable` when the processor has nothing to switch off, or it was not switched off."""
    level = platform.environment.get(_SIMD)
    if level is not None and not os.environ.get(_SIMD):
        raise Unavailable(f"numpy has no instructions beyond {level} to switch off here")
    if level is not None and (left := _beyond(level)):
        raise Unavailable(f"numpy still uses {', '.join(left)}")


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m) in LAYERS or super().is_leaf_module(m, module_qualified_name)


def _traced(model: nn.Module) -> fx.GraphModule:
    whole = nn.Sequential(model).eval()  # a tracer walks into the root, whatever it is
    try:
        graph = _Tracer().trace(whole)
    except (fx.proxy.TraceError, TypeError, RuntimeError, NotImplementedError) as error:
        raise Unavailable(f"the model cannot be traced for numpy: {str(error).splitlines()[0]}") from error
    return fx.GraphModule(whole, graph)


class _Numpy(fx.Interpreter):
    """Runs a traced module with numpy arrays in place of tensors."""

    def __init__(self, module: fx.GraphModule, kernels: Kernels) -> None:
        super().__init__(module)
        self._kernels = kernels

    def run(self, *args: Any, **options: Any) -> Any:
        with np.errstate(all="ignore"):
            return super().run(*args, **options)

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        layer = self.fetch_attr(target)
        twin = _twin(LAYERS, type(layer), f"layer {type(layer).__name__}")
        return twin(self._kernels, layer, *args, **kwargs)

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        name = getattr(target, "__name__", str(target))
        return _twin(FUNCTIONS, name, f"function {name}")(self._kernels, *args, **kwargs)

    def call_method(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return _twin(METHODS, target, f"method {target}")(self._kernels, *args, **kwargs)

    def get_attr(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        found = self.fetch_attr(target)
        return found.detach().numpy() if isinstance(found, Tensor) else found


def _twin(table: Mapping[Any, Callable[..., Any]], key: object, what: str) -> Callable[..., Any]:
    if key not in table:
        raise Unavailable(f"the {what} has no numpy twin here")
    return table[key]
