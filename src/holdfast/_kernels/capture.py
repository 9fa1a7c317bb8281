"""Launches as a CUDA graph, and a process that goes on as before where they cannot be one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import torch

Pool = tuple[int, int]


def recorded(
    body: Callable[[], None],
    *,
    stream: torch.cuda.Stream | None = None,
    pool: Pool | None = None,
    errors: str = "global",
) -> Callable[[], None]:
    """Run ``body`` once, of which nothing is computed yet, and return what computes it.

    Args:
        body: launches only; what it waits for breaks the capture off.
        stream: to capture on; by default one of torch's own.
        pool: of memory to share with other graphs; by default one of its own.
        errors: ``global``, or ``thread_local`` to let other threads use CUDA as they like meanwhile.

    Raises:
        RuntimeError: something in ``body`` cannot be captured; it says what, where the end of the capture would only
            say that there was something.
    """
    graph, before, noticed = torch.cuda.CUDAGraph(), torch.cuda.current_stream(), list[RuntimeError]()
    pool = torch.cuda.graph_pool_handle() if pool is None else pool

    def watched() -> None:
        try:
            body()
        except RuntimeError as error:
            noticed.append(error)
            raise

    try:
        with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode=errors):  # type: ignore[arg-type]
            watched()
    except RuntimeError as error:
        _leave(before, pool, (stream or before).device_index)
        raise (noticed or [error])[0] from None
    return graph.replay


def _leave(before: torch.cuda.Stream, pool: Pool, device: int) -> None:
    """Undo what torch leaves behind of a capture that broke off: stream, memory and generator are still in it.

    Launches would go to the captured stream, memory would not be given back, and every random draw would be an error.
    """
    torch.cuda.set_stream(before)
    with suppress(RuntimeError, AttributeError):  # torch has done it, as it always does from 2.12 on
        torch._C._cuda_endAllocateToPool(device, pool)
    generator = torch.cuda.default_generators[device]
    generator.graphsafe_set_state(generator.clone_state())
