"""torch under a setting: number format, layout, libraries, threads, quantisation, attention and compiler."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from holdfast.data import Dataset
from holdfast.errors import InvalidConfig, Unavailable
from holdfast.execution import describe_platform, predict
from holdfast.identification.platforms.setting import LocalPlatform
from holdfast.models.outputs import logits_of

T = TypeVar("T")
_ATTENTION = {"math": SDPBackend.MATH, "flash": SDPBackend.FLASH_ATTENTION}


def outputs_of(platform: LocalPlatform, model: nn.Module, probes: Dataset) -> tuple[Tensor, dict[str, Any]]:
    """Return float32 outputs (n, classes), and the platform as it was described while they were computed.

    Raises:
        Unavailable: this build of torch lacks the engine, or the model does not go through the compiler.
    """
    subject = Placed(model, platform)
    with _quiet(), _settings(platform):
        outputs = predict(subject, probes, batch_size=platform.batch_size)
        return outputs, describe_platform().to_json()


class Placed(nn.Module):
    """Runs a copy of a model under everything that a platform sets in a process of torch; returns float32.

    Integer inputs, tokens, stay what they are. Gradients pass where the caller asks for them and the platform has any.
    What a platform reads at start-up is that of this process.

    Raises:
        InvalidConfig: a platform of another runtime, or values that torch does not have.
    """

    def __init__(self, model: nn.Module, platform: LocalPlatform) -> None:
        super().__init__()
        require_torch(platform)
        require_known(platform)
        self._platform = platform
        self._dtype = getattr(torch, platform.dtype)
        self._layout = torch.channels_last if platform.channels_last else torch.contiguous_format
        self._compiled = dict[torch.Size, Callable[[Tensor], Any]]()
        self.model = copy.deepcopy(model).eval().to(self._dtype)
        if platform.channels_last:
            self.model = self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, inputs: Tensor) -> Tensor:
        wanted = torch.is_grad_enabled()
        with _quiet(), _settings(self._platform), torch.set_grad_enabled(wanted or self._platform.gradients):
            fitting = self._fitting(inputs)
            if fitting.shape not in self._compiled:  # what is compiled holds for one shape
                self._compiled[fitting.shape] = self._made(fitting)
            output = self._compiled[fitting.shape](fitting)
            found: Tensor = logits_of(output).float()
        return found if wanted else found.detach()

    def _fitting(self, inputs: Tensor) -> Tensor:
        if not inputs.is_floating_point():
            return inputs
        layout = self._layout if inputs.dim() == 4 else torch.contiguous_format  # channels come last in images only
        return inputs.to(self._dtype).contiguous(memory_format=layout)

    def _made(self, example: Tensor) -> Callable[[Tensor], Any]:
        if self._platform.int8_engine is not None:
            return _quantised(self.model)
        if self._platform.compiler is None:
            return self.model
        return _compiled(self.model, self._platform.compiler, example)


def _quantised(model: nn.Module) -> nn.Module:
    """Return the model with int8 linear layers, their ranges found while running."""
    found: nn.Module = torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), {nn.Linear}, dtype=torch.qint8)
    return found


def _compiled(model: nn.Module, compiler: str, example: Tensor) -> Callable[[Tensor], Tensor]:
    try:
        if compiler == "inductor":
            found = torch.compile(model)
            found(example)
            return found
        frozen = torch.jit.freeze(torch.jit.trace(model, example, check_trace=False))
        return torch.jit.optimize_for_inference(frozen) if compiler == "optimize-for-inference" else frozen
    except (RuntimeError, TypeError) as error:
        raise Unavailable(f"the model does not go through {compiler}: {_last_line(error)}") from error


def _last_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        # a TF32 switch of other vendors' GPUs, whenever the oneDNN flags are set
        warnings.filterwarnings("ignore", message="TF32 acceleration", category=UserWarning)
        warnings.filterwarnings("ignore", message=".*(torch.jit|torch.ao.quantization|quantize_dynamic)")
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)  # type: ignore[attr-defined]
        warnings.filterwarnings("ignore", message=".*quantized.*", category=UserWarning)
        yield


@contextmanager
def _settings(platform: LocalPlatform) -> Iterator[None]:
    """Set what torch lets a process set, and put it back."""
    with ExitStack() as stack:
        _put(stack, torch.get_num_threads, torch.set_num_threads, platform.threads)
        _put(stack, torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, platform.matmul_precision)
        stack.enter_context(torch.backends.mkldnn.flags(enabled=platform.onednn))
        stack.enter_context(torch.backends.nnpack.flags(enabled=platform.nnpack))
        if platform.flush_denormal:
            stack.callback(torch.set_flush_denormal, False)
            if not torch.set_flush_denormal(True):
                raise Unavailable("this processor cannot flush denormal numbers")
        if platform.int8_engine is not None:
            _engine(stack, platform.int8_engine)
        if platform.attention is not None:
            stack.enter_context(sdpa_kernel(_ATTENTION[platform.attention]))
        if platform.autocast is not None:
            stack.enter_context(torch.autocast("cpu", dtype=getattr(torch, platform.autocast)))
        yield


def _put(stack: ExitStack, get: Callable[[], T], put: Callable[[T], None], value: T) -> None:
    stack.callback(put, get())
    put(value)


def _engine(stack: ExitStack, name: str) -> None:
    backend = torch.backends.quantized
    if name not in backend.supported_engines:
        raise Unavailable(f"this torch has no quantised engine {name}", hint=f"it has {backend.supported_engines}")
    before = backend.engine
    stack.callback(setattr, backend, "engine", before)
    backend.engine = name


def require_torch(platform: LocalPlatform) -> None:
    """Raise :class:`InvalidConfig` for a platform that computes with something else."""
    if platform.runtime != "torch":
        raise InvalidConfig(
            f"the platform {platform.name} computes with {platform.runtime}, not with torch",
            hint="it answers images, in traces and in border searches; prompts and gradients take one of torch",
        )


def has_gradients(platform: LocalPlatform) -> bool:
    """Say whether gradients pass through: int8 kernels, compiled graphs and other runtimes have none."""
    return platform.runtime == "torch" and platform.int8_engine is None and platform.compiler is None


def require_known(platform: LocalPlatform) -> None:
    """Raise :class:`InvalidConfig` for values that torch does not have."""
    if platform.attention not in (None, *_ATTENTION):
        raise InvalidConfig(f"no attention {platform.attention!r}", hint=f"there are {', '.join(_ATTENTION)}")
    if platform.compiler not in (None, "freeze", "optimize-for-inference", "inductor"):
        raise InvalidConfig(f"no compiler {platform.compiler!r}")
    if platform.batch_size < 1 or platform.threads < 1:
        raise InvalidConfig(f"{platform.name} has batches of {platform.batch_size} and {platform.threads} threads")
