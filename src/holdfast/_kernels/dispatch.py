"""Digests of tensors by the twin where it can make them, and a logged reason where it cannot.

A wrong digest is worse than none: the twin must first agree with the ``blake3`` package on a few bytes, once per
device; memory that runs out halves the batch; a kernel that does not compile leaves the work to the reference; and any
other error of the device is raised, because after one nothing that the device says can be relied on.
"""

from __future__ import annotations

import functools
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from blake3 import blake3
from torch import Tensor

from holdfast._kernels import device as devices
from holdfast.errors import MissingDevice

_log = logging.getLogger(__name__)
_TRIED = (0, 1, 65, 1025, 2111)  # bytes of the ranges of the first test: all kinds of ends, and a tree of two levels


def digests(
    tensors: Sequence[Tensor], prefixes: Sequence[bytes] = (), *, context: str | None = None
) -> list[bytes | None]:
    """Return the BLAKE3 (32 bytes) of each tensor's bytes, made where they lie; None for what the reference must do.

    Tensors on the CPU are the reference's own, and nothing is logged of them.

    Args:
        tensors: any dtype and shape, on any devices.
        prefixes: bytes before each tensor's own; none when left out.
        context: of the derive-key mode; None is the plain hash.

    Raises:
        MissingDevice: a device failed; what it computes after that is worth nothing.
    """
    before = list(prefixes) or [b""] * len(tensors)
    found: list[bytes | None] = [None] * len(tensors)
    places: dict[torch.device, list[int]] = {}
    refused: Counter[str] = Counter()
    for place, item in enumerate(tensors):
        if item.device.type not in devices.KINDS:
            continue
        if (why := devices.obstacle(item) or _objection(item.device)) is not None:
            refused[why] += 1
        else:
            places.setdefault(item.device, []).append(place)
    for why, count in refused.items():
        _log.warning("%d tensors are digested on the CPU: %s", count, why)
    for group in places.values():
        rows = _batched([tensors[place] for place in group], [before[place] for place in group], context)
        for place, row in zip(group, rows, strict=True):
            found[place] = row
    return found


@contextmanager
def background(device: torch.device) -> Iterator[None]:
    """Launch the kernels of a block after what ``device`` has been given so far, and behind all that it is given later.

    Only a CUDA device has such streams; elsewhere nothing changes.
    """
    if device.type != "cuda":
        yield
        return
    stream = _background_stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        yield


@functools.cache
def _background_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device, priority=0)  # 0 is the lowest there is


def _objection(device: torch.device) -> str | None:
    try:
        return _mistrust(device)
    except torch.OutOfMemoryError:  # not remembered: there may be memory the next time
        return f"{device} has no memory left"


def _batched(tensors: list[Tensor], prefixes: list[bytes], context: str | None) -> Sequence[bytes | None]:
    """Digest tensors of one device at once, or half of them at a time where memory does not suffice for all."""
    try:
        return _rows(tensors, prefixes, context)
    except torch.OutOfMemoryError:
        half = len(tensors) // 2
        if not half:
            _log.warning("1 tensor is digested on the CPU: the device has no memory for its nodes")
            return [None]
        _log.warning("the device has no memory to digest %d tensors at once: %d at a time", len(tensors), half)
    first = _batched(tensors[:half], prefixes[:half], context)
    return [*first, *_batched(tensors[half:], prefixes[half:], context)]


def _rows(tensors: list[Tensor], prefixes: list[bytes], context: str | None) -> Sequence[bytes | None]:
    from holdfast._kernels.digest import Plan

    plan = Plan(tuple(tensors), tuple(prefixes) if any(prefixes) else (), context)
    try:
        found = devices.attempt(lambda: plan.roots().cpu(), tensors[0].device)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise device_failed(tensors[0].device, error) from error
    return [None] * len(tensors) if found is None else [bytes(row) for row in found.numpy()]


def device_failed(device: torch.device, error: RuntimeError) -> MissingDevice:
    """Return the one error that stands for what a device or its driver reported."""
    hint = "an error of the device outlasts the call: start a new process, and look at the system's log"
    return MissingDevice(f"{device} failed while its memory was read: {str(error).partition(chr(10))[0]}", hint=hint)


@functools.cache
def _mistrust(device: torch.device) -> str | None:
    """Return why the twin's digests are not taken on ``device``: it does not agree with the package on a few bytes."""
    source = torch.arange(4096, dtype=torch.int64).mul_(2654435761).bitwise_right_shift_(7).to(torch.uint8)
    there = source.to(device)
    tensors = [there[start : start + size] for start, size in enumerate(_TRIED)]
    expected = [blake3(source[start : start + size].numpy().data).digest() for start, size in enumerate(_TRIED)]
    rows = _rows(tensors, [b""] * len(tensors), None)
    if None in rows:
        return f"the kernels do not compile for {device}"
    return None if list(rows) == expected else f"the twin's digests on {device} are not BLAKE3's"
