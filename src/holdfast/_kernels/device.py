"""Whether a tensor's device can run the twins, and if not, why: asked before any kernel is compiled.

Needs no Triton to be imported, and none to be installed. What is found holds for the life of the process.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

KINDS = ["cuda"]
_refused: dict[torch.device, str] = {}  # devices for which a kernel did not compile, and why
_log = logging.getLogger(__name__)
OLDEST = (8, 0)  # compute capability; Triton promises nothing for chips before Ampere


Result = TypeVar("Result")


def attempt(call: Callable[[], Result], device: torch.device) -> Result | None:
    """Return what ``call``, which launches kernels on ``device``, returns; None if one of them does not compile.

    That is logged, and from then on :func:`obstacle` says so of every tensor there. Nothing was computed then, so the
    reference can do all of the work.
    """
    from triton.errors import TritonError

    try:
        return call()
    except TritonError as error:
        _refused[device] = f"a kernel does not compile for {device}: {error}"
        _log.warning("the references are used from now on: %s", _refused[device])
        return None


def obstacle(tensor: Tensor) -> str | None:
    """Return why no kernel can read ``tensor`` where it lies; None if one can."""
    if tensor.device.type not in KINDS:  # nearly all that is ever asked
        return f"{tensor.device.type} is no CUDA device"
    if not tensor.is_contiguous() or tensor.is_neg() or tensor.is_conj():
        return "a tensor is not contiguous"
    return device_obstacle(tensor.device) or _refused.get(tensor.device)


@functools.cache
def device_obstacle(device: torch.device) -> str | None:
    """Return why no kernel runs on ``device``; None if kernels do."""
    if device.type not in KINDS:
        return f"{device.type} is no CUDA device"
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    if device.type == "cuda":
        return chip_obstacle(torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device))
    return None


def chip_obstacle(name: str, capability: tuple[int, int]) -> str | None:
    """Return why kernels are not compiled for a GPU of this compute capability; None if they are."""
    if torch.version.hip is not None:
        return f"{name} is an AMD GPU, on which the kernels were never tried"
    if capability < OLDEST:
        return (
            f"{name} has compute capability {capability[0]}.{capability[1]}, and Triton needs {OLDEST[0]}.{OLDEST[1]}"
        )
    return None
