"""The resident audit: walk the weights in memory, compare each tensor with its signed root, repair what changed.

GPUHammer showed single flipped bits in accelerator memory taking a network from 80 % to under 1 %. A sweep reads every
byte once, at most ``budget`` bytes a second, so a change is found within one sweep: ``bytes / budget`` seconds. Weights
on a CUDA device are digested there, on a stream that gives way to all others, one tensor at a time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from blake3 import blake3

from holdfast.errors import IntegrityError, InvalidConfig
from holdfast.signing.resident.incident import Incident
from holdfast.signing.resident.repair import decoded_view, digest_of, mend
from holdfast.signing.resident.roots import Root, Source

if TYPE_CHECKING:
    from torch import nn
    from torch.utils.hooks import RemovableHandle


@dataclass(frozen=True, slots=True)
class Sweep:
    """One pass over all weights: bytes read, seconds it took, and what was found."""

    bytes: int
    seconds: float
    incidents: tuple[Incident, ...]


class Audit:
    """A background check of a model's weights; a context manager, or call :meth:`sweep` yourself.

    Args:
        model: the module in memory.
        roots: its live tensors with their signed roots, from :func:`roots_of`.
        budget: bytes read per second at most; None reads as fast as memory and BLAKE3 allow.
        source: verified storage to mend from; None leaves a changed tensor as it is.
        on_incident: called from the auditing thread with each incident, mended or not.

    While a changed tensor is not mended, every forward pass of ``model`` raises :class:`IntegrityError`.

    Raises:
        InvalidConfig: a budget that is not positive.
    """

    def __init__(
        self,
        model: nn.Module,
        roots: tuple[Root, ...],
        *,
        budget: float | None = None,
        source: Source | None = None,
        on_incident: Callable[[Incident], None] = lambda incident: None,
    ) -> None:
        if budget is not None and not budget > 0:
            raise InvalidConfig(f"a bandwidth budget is positive, not {budget}", hint="bytes per second, such as 1e9")
        self.model, self.roots, self.budget, self.source = model, roots, budget, source
        self._on_incident = on_incident
        self._seen: dict[str, float] = {}
        self._broken: set[str] = set()
        self._stop, self._thread = threading.Event(), ThreadPoolExecutor(1, thread_name_prefix="holdfast-audit")
        self._work: Future[None] | None = None
        self._guard: RemovableHandle | None = None
        self.incidents: list[Incident] = []
        self.sweeps: list[Sweep] = []

    @property
    def bytes(self) -> int:
        """Bytes of one sweep."""
        return sum(root.length for root in self.roots)

    @property
    def running(self) -> bool:
        """Whether the background thread is at work."""
        return self._work is not None and not self._work.done()

    @property
    def period(self) -> float | None:
        """Seconds of one sweep under the budget: the longest that a change stays unseen. None without a budget."""
        return None if self.budget is None else self.bytes / self.budget

    def sweep(self) -> Sweep:
        """Check every tensor once and return what was found; stops early when the audit is stopped."""
        begun, count, found = time.monotonic(), 0, []
        for root in self.roots:
            if self._stop.is_set():
                break
            if (incident := self._check(root)) is not None:
                found.append(incident)
            count += root.length
        result = Sweep(count, time.monotonic() - begun, tuple(found))
        self.sweeps.append(result)
        return result

    def _check(self, root: Root) -> Incident | None:
        since = self._seen.setdefault(root.name, time.monotonic())
        begun = time.monotonic()
        found = self._digest(root)
        if found == root.blake3 and self._decodes(root):
            self._seen[root.name] = begun  # what was hashed early in the pass may change before its end
            self._broken.discard(root.name)
            return None
        incident = mend(self.model, root, self._parts(root), found, self.source, time.monotonic() - since)
        (self._broken.discard if incident.repaired else self._broken.add)(root.name)
        self._seen[root.name] = begun
        self.incidents.append(incident)
        self._on_incident(incident)
        return incident

    def _digest(self, root: Root) -> str:
        if (there := self._digest_in_place(root)) is not None:
            return there
        hasher = blake3()
        for chunk in self._paced(root):
            hasher.update(chunk)
        return hasher.hexdigest()

    def _digest_in_place(self, root: Root) -> str | None:
        """Return the digest that the tensor's own device makes of it, paced as a whole; None if it makes none."""
        from holdfast._kernels.dispatch import background, digests

        begun = time.monotonic()
        with background(root.tensor.device):  # ends with the digest on the host: what follows sees its bytes
            found = digests([root.tensor.detach()])[0]
        if found is None:
            return None
        if self.budget is not None:
            self._stop.wait(max(0.0, root.length / self.budget - (time.monotonic() - begun)))
        return found.hex()

    def _paced(self, root: Root) -> Iterator[memoryview]:
        """Yield the bytes of a tensor no faster than the budget; an audit that is being stopped hurries."""
        for _, chunk in root.slices():
            begun = time.monotonic()
            yield chunk
            if self.budget is not None:
                self._stop.wait(max(0.0, len(chunk) / self.budget - (time.monotonic() - begun)))

    def _decodes(self, root: Root) -> bool:
        """Say whether the numbers that the network computes with are still those that its codes stand for.

        Asked only of the last part of a parameter, when its codes and its scales have all been found whole. One that
        changed since then is for the next sweep, which will name it.
        """
        view, parts = decoded_view(self.model, root), self._parts(root)
        if view is None or root is not parts[-1] or view.lens.matches(view.parameter):
            return True
        return any(digest_of(part.tensor) != part.blake3 for part in parts)

    def _parts(self, root: Root) -> tuple[Root, ...]:
        """Return the roots that one parameter is decoded from; the root alone where nothing is decoded."""
        return tuple(item for item in self.roots if item.parameter == root.parameter)

    def __enter__(self) -> Audit:
        self._guard = self.model.register_forward_pre_hook(self._refuse)
        self._work = self._thread.submit(self._run)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.shutdown()
        if self._guard is not None:
            self._guard.remove()
        if self._work is not None:
            self._work.result()  # what went wrong in the thread is raised here

    def _run(self) -> None:
        while not self._stop.is_set():
            self.sweep()

    def _refuse(self, _module: object, _inputs: object) -> None:
        if self._broken:
            raise IntegrityError(f"{min(self._broken)} in memory is not what was signed", hint="reload the model")
        if not self.running:
            raise IntegrityError("the audit of what was signed has failed", hint="leaving its block says why")
