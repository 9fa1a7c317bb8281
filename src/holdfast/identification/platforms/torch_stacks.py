"""torch under a setting: number format, layout, libraries, threads, quantisation, attention and compiler."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.data import Dataset
from holdfast.errors import InvalidConfig, Unavailable
from holdfast.execution import describe_platform, predict
from holdfast.identification.platforms.devices import require_device
from holdfast.identification.platforms.knobs import ATTENTION, asked, turned
from holdfast.identification.platforms.setting import LocalPlatform
from holdfast.models.outputs import logits_of
from holdfast.numerics import bits

_VECTORS = ("avx2", "avx512")  # what ATen dispatches to above its default, on x86
_COMPILERS = ("freeze", "optimize-for-inference", "inductor")


def outputs_of(platform: LocalPlatform, model: nn.Module, probes: Dataset) -> tuple[Tensor, dict[str, Any]]:
    """Return float32 outputs (n, classes), and the platform as it was described while they were computed.

    A GPU is asked twice: one of its kernels that gives other bits each time would make a reference of chance.

    Raises:
        MissingDevice: there is no such GPU here, or it lacks what the platform asks for.
        Unavailable: this torch lacks a knob or did not take it, the model does not go through the compiler, or a
            GPU gave other bits when it was asked again.
    """
    subject = Placed(model, platform)
    with _quiet(), turned(platform):
        outputs = predict(subject, probes, batch_size=platform.batch_size)
        if platform.device != "cpu":
            require_repeated(outputs, predict(subject, probes, batch_size=platform.batch_size))
        return outputs, describe_platform().to_json()


def described_as(platform: LocalPlatform) -> dict[str, Any]:
    """Return the description of this process while it is ``platform``, which is one of torch; raises as above."""
    with _quiet(), turned(platform):
        described = describe_platform().to_json() | {"setting": platform.name}
    return described | ({"set": knobs} if (knobs := asked(platform)) else {})


def require_repeated(once: Tensor, again: Tensor) -> None:
    """Raise :class:`Unavailable` where two passes over the same probes (n, classes) differ in a bit."""
    if different := int((bits.int_view(once) != bits.int_view(again)).sum()):
        raise Unavailable(
            f"{different} of {once.numel()} outputs had other bits when it was asked again, so it is no platform",
            hint="cuda-deterministic allows deterministic algorithms only",
        )


class Placed(nn.Module):
    """Runs a copy of a model under everything that a platform sets in a process of torch; returns float32.

    Integer inputs, tokens, stay what they are. Gradients pass where the caller asks for them and the platform has any.
    What a platform reads at start-up is that of this process.

    The model is copied to the platform's device; outputs come back to where the inputs are.

    Raises:
        InvalidConfig: a platform of another runtime, or values that torch does not have.
        MissingDevice: there is no such GPU here, or it lacks what the platform asks for.
        Unavailable: a layer keeps its weights in another layout than the one asked for.
    """

    def __init__(self, model: nn.Module, platform: LocalPlatform) -> None:
        super().__init__()
        require_torch(platform)
        require_known(platform)
        self._platform, self._device = platform, require_device(platform)
        self._dtype = getattr(torch, platform.dtype)
        self._layout = torch.channels_last if platform.channels_last else torch.contiguous_format
        self._compiled = dict[torch.Size, Callable[[Tensor], Any]]()
        self.model = copy.deepcopy(model).eval().to(self._device, self._dtype)
        if platform.channels_last:
            self.model = self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            _require_layout(self.model)

    def forward(self, inputs: Tensor) -> Tensor:
        wanted = torch.is_grad_enabled()
        with _quiet(), turned(self._platform), torch.set_grad_enabled(wanted or self._platform.gradients):
            fitting = self._fitting(inputs)
            if fitting.shape not in self._compiled:  # what is compiled holds for one shape
                self._compiled[fitting.shape] = self._made(fitting)
            output = self._compiled[fitting.shape](fitting)
            found: Tensor = logits_of(output).float().to(inputs.device)
        return found if wanted else found.detach()

    def _fitting(self, inputs: Tensor) -> Tensor:
        if not inputs.is_floating_point():
            return inputs.to(self._device)
        layout = self._layout if inputs.dim() == 4 else torch.contiguous_format  # channels come last in images only
        return inputs.to(self._device, self._dtype).contiguous(memory_format=layout)

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
            return _inductor(model, example)
        frozen = torch.jit.freeze(torch.jit.trace(model, example, check_trace=False))
        return torch.jit.optimize_for_inference(frozen) if compiler == "optimize-for-inference" else frozen
    except (RuntimeError, TypeError) as error:
        raise Unavailable(f"the model does not go through {compiler}: {_last_line(error)}") from error


def _inductor(model: nn.Module, example: Tensor) -> Callable[[Tensor], Tensor]:
    """Compile for one shape; where compilation is switched off or given up, torch runs the model as it is."""
    from torch._dynamo.utils import counters

    graphs = counters["stats"]["unique_graphs"]
    found: Callable[[Tensor], Tensor] = torch.compile(model)
    found(example)
    if counters["stats"]["unique_graphs"] <= graphs:
        raise Unavailable(
            "torch.compile compiled nothing", hint="see TORCHDYNAMO_DISABLE, and the log of torch._dynamo"
        )
    return found


def _require_layout(model: nn.Module) -> None:
    images = torch.channels_last
    for name, weight in model.named_parameters():
        if weight.dim() == 4 and not weight.is_contiguous(memory_format=images):
            raise Unavailable(f"channels_last=True was not taken: {name} keeps its layout")


def _last_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        # a TF32 switch of other vendors' GPUs, whenever the oneDNN flags are set
        warnings.filterwarnings("ignore", message="TF32 acceleration", category=UserWarning)
        warnings.filterwarnings("ignore", message=".*autocast, but the target dtype is not supported")  # it is refused
        warnings.filterwarnings("ignore", message=".*(torch.jit|torch.ao.quantization|quantize_dynamic)")
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)  # type: ignore[attr-defined]
        warnings.filterwarnings("ignore", message=".*quantized.*", category=UserWarning)
        yield


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


def require_effective(platform: LocalPlatform) -> None:
    """Raise :class:`Unavailable` where the instruction set asked for at start-up is not the one that ATen took."""
    wanted = platform.environment.get("ATEN_CPU_CAPABILITY")
    found = torch.backends.cpu.get_cpu_capability().lower()
    if wanted is not None and (found in _VECTORS if wanted == "default" else found != wanted):
        raise Unavailable(f"ATEN_CPU_CAPABILITY={wanted} was not taken: ATen dispatches to {found}")


def require_known(platform: LocalPlatform) -> None:
    """Raise :class:`InvalidConfig` for values that torch does not have."""
    if platform.attention not in (None, *ATTENTION):
        raise InvalidConfig(f"no attention {platform.attention!r}", hint=f"there are {', '.join(ATTENTION)}")
    if platform.compiler not in (None, *_COMPILERS):
        raise InvalidConfig(f"no compiler {platform.compiler!r}", hint=f"there are {', '.join(_COMPILERS)}")
    if platform.device != "cpu" and (platform.int8_engine is not None or platform.runtime != "torch"):
        what = platform.int8_engine or platform.runtime
        raise InvalidConfig(f"{platform.name} is computed by {what}, which runs on the CPU, not on {platform.device}")
    if platform.batch_size < 1 or platform.threads < 1:
        raise InvalidConfig(f"{platform.name} has batches of {platform.batch_size} and {platform.threads} threads")
