"""What a forward pass leaves behind in a model: buffers it writes, found by watching it, compared and put back.

A fault that changes no output may still have changed such a state (it is *latent* there), and a trial must not inherit
what another left behind.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from holdfast.errors import InvalidConfig, TrialError
from holdfast.evidence.digest import digest_bytes

_KEPT = 64 << 20  # bytes of buffers that are copied in case a pass writes them

Mark = Sequence[int]


@dataclass(frozen=True, slots=True)
class _Entry:
    """One parameter or buffer: where it hangs, and what hung there at the beginning."""

    name: str
    owner: dict[str, Tensor | None]
    leaf: str
    original: Tensor | None
    copy: Tensor | None  # of its bits; None for parameters, and for buffers beyond the limit
    counts: bool  # whether its version can be read; what was made in inference mode cannot be written here

    @property
    def now(self) -> Tensor | None:
        return self.owner.get(self.leaf)

    @property
    def version(self) -> int:
        """How often it was written; once another tensor hangs here, which."""
        now = self.owner.get(self.leaf)
        if now is not self.original:
            return -id(now)
        return now._version if now is not None and self.counts else 0


class State:
    """The parameters and buffers of a model while trials run.

    Attributes:
        moving: names of those that a fault-free pass writes.
    """

    def __init__(self, model: nn.Module) -> None:
        self._entries = {entry.name: entry for entry in _entries(model)}
        self._first = self.mark()
        self.moving: frozenset[str] = frozenset()

    def learn(self, run: Callable[[], object]) -> None:
        """Call ``run``, a fault-free pass, and find out what has been written since the beginning; then put it back.

        Raises:
            InvalidConfig: it writes a parameter, or more than can be copied.
        """
        run()
        self.moving = self.written(self._first)
        for entry in (self._entries[name] for name in sorted(self.moving)):
            if entry.original is not None and entry.copy is None:
                raise InvalidConfig(
                    f"every pass of the model writes {entry.name}, so that no two trials would start alike",
                    hint="freeze it; only buffers of up to 64 MiB together are put back",
                )
        self.restore(self.moving)

    def mark(self) -> Mark:
        """Return what :meth:`written` compares with."""
        return [entry.version for entry in self._entries.values()]

    def written(self, mark: Mark, but: Collection[str] = ()) -> frozenset[str]:
        """Return the names of what has been written since ``mark``, except ``but`` and what shares memory with it."""
        now = self.mark()
        if now == mark:
            return frozenset()
        entries = zip(self._entries.values(), mark, now, strict=True)
        changed = [entry for entry, before, after in entries if before != after]
        known = {_place(self._entries[name].now) for name in but if name in self._entries}
        return frozenset(entry.name for entry in changed if entry.name not in but and _place(entry.now) not in known)

    def digest(self) -> str:
        """Return the digest of the bits of everything that moves; empty where nothing does."""
        if not self.moving:
            return ""
        return digest_bytes(b"".join(_bytes(self._entries[name].now) for name in sorted(self.moving)))

    def differs(self, names: Collection[str]) -> bool:
        """Say whether any of these holds other bits than at the beginning, or none that are known."""
        entries = [self._entries[name] for name in names]
        return any(_bytes(entry.now) != _bytes(entry.copy) for entry in entries)

    def restore(self, names: Collection[str]) -> None:
        """Give these the bits of the beginning.

        Raises:
            TrialError: a fault made the model write something too large to have been copied.
        """
        for entry in (self._entries[name] for name in sorted(names)):
            if entry.original is not None:
                if entry.copy is None:
                    raise TrialError(f"a fault made the model overwrite {entry.name}", hint="load the model again")
                with torch.no_grad():
                    entry.original.copy_(entry.copy)
            entry.owner[entry.leaf] = entry.original


def _entries(model: nn.Module) -> list[_Entry]:
    found, left = list[_Entry](), _KEPT
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        for leaf, parameter in module._parameters.items():
            owner: dict[str, Tensor | None] = module._parameters
            found.append(_Entry(prefix + leaf, owner, leaf, parameter, None, _counts(parameter)))
        for leaf, buffer in module._buffers.items():
            left -= 0 if buffer is None else buffer.nbytes
            copy = buffer.clone() if buffer is not None and left >= 0 else None
            found.append(_Entry(prefix + leaf, module._buffers, leaf, buffer, copy, _counts(buffer)))
    return found


def _counts(tensor: Tensor | None) -> bool:
    return tensor is not None and not tensor.is_inference()


def _place(tensor: Tensor | None) -> int:
    """Return where a tensor keeps its elements; tied weights are one tensor under two names, or two in one place."""
    return -1 if tensor is None else tensor.untyped_storage().data_ptr()


def _bytes(tensor: Tensor | None) -> bytes:
    if tensor is None:
        return b"none"
    flat = tensor.detach().cpu().contiguous().flatten()
    value = flat.to(torch.uint8) if flat.dtype == torch.bool else flat.view(torch.uint8)
    return repr((tuple(tensor.shape), str(tensor.dtype))).encode() + value.numpy().tobytes()
