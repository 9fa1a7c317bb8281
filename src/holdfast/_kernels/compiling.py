"""The decorator of kernels, with a type, and whether they are compiled or interpreted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import triton
from triton import knobs


def kernel(*sizes: str) -> Callable[[Callable[..., Any]], Any]:
    """Make a Triton kernel, or a function that kernels call.

    Args:
        sizes: integer arguments that differ from call to call; no value of theirs is compiled for on its own.
    """

    def wrap(function: Callable[..., Any]) -> Any:
        return triton.jit(function, do_not_specialize=sizes)

    return wrap


def interpreted() -> bool:
    """Say whether kernels run in Triton's interpreter, on tensors of the CPU (``TRITON_INTERPRET=1``)."""
    return bool(knobs.runtime.interpret)
