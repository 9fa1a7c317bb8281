"""Whether forked processes would write to one memory: what a fault changes in one of them, all would compute with."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import chain
from operator import itemgetter
from pathlib import Path

from torch import Tensor, nn

from holdfast.errors import InvalidConfig

_MAPS = Path("/proc/self/maps")


def require_own_memory(model: nn.Module) -> None:
    """Refuse a model whose weights a fork would share instead of copying them, as after ``model.share_memory()``.

    Raises:
        InvalidConfig: it names the first such tensor.
    """
    shared = _shared_ranges() if _MAPS.exists() else None  # torch does not know of numpy's mapped files
    for name, tensor in chain(model.named_parameters(), model.named_buffers()):
        if tensor.device.type == "cpu" and (tensor.is_shared() if shared is None else _lies_in(tensor, shared)):
            raise InvalidConfig(
                f"{name} is in memory that processes share, and faults of one would be in all",
                hint="copy.deepcopy(model) has memory of its own; or use executor='inline'",
            )


def _lies_in(tensor: Tensor, ranges: Sequence[tuple[int, int]]) -> bool:
    address = tensor.data_ptr()
    place = bisect_right(ranges, address, key=itemgetter(0)) - 1
    return place >= 0 and address < ranges[place][1]


def _shared_ranges() -> list[tuple[int, int]]:
    """Return the sorted (begin, end) of what this process maps as shared."""
    found = []
    for line in _MAPS.read_text(encoding="utf-8", errors="replace").splitlines():
        where, permissions = line.split()[:2]
        if permissions.endswith("s"):
            begin, end = (int(part, 16) for part in where.split("-"))
            found.append((begin, end))
    return sorted(found)
