"""What a guard is: of one site, of one site and its operands, or of the whole model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from holdfast.models.tap import settle


@runtime_checkable
class Guard(Protocol):
    """Checks, and may correct, the output of one site.

    A guard with a true class attribute ``operands`` is called as ``guard(x, operands)`` with :class:`Operands`. A
    guard may have ``alarms`` beside ``events``, of the same dtype and shape: what it found wrong and did not set right.

    Attributes:
        kind: registry name.
        site: name of the guarded place.
        events: int64, shape (batch,): corrected elements of each sample in the last forward; None before the first.
            An attribute will do.
    """

    kind: str
    site: str

    @property
    def events(self) -> Tensor | None:
        """Corrected elements of each sample, int64, shape (batch,)."""
        ...

    def __call__(self, x: Tensor) -> Tensor:
        """Return the checked output; may work in place."""
        ...

    def to_json(self) -> dict[str, Any]:
        """Return kind, site and bounds."""
        ...


@dataclass(frozen=True, slots=True)
class Operands:
    """The operation that computed a guarded output, and what it was called with.

    Attributes:
        call: the leaf module, or the torch function.
        args: positional arguments; an operation in place has overwritten the first.
        kwargs: keyword arguments.
    """

    call: nn.Module | Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    def again(self) -> Any:
        """Compute the operation once more; hooks and taps of the module do not run."""
        compute = self.call.forward if isinstance(self.call, nn.Module) else self.call
        return compute(*self.args, **self.kwargs)


@runtime_checkable
class OperandGuard(Protocol):
    """A guard that also sees what its output was computed from; ``operands`` is true.

    One with a true ``by_sample`` promises that what it does to a sample, and counts of it, depends on no other sample.
    """

    kind: str
    site: str
    operands: bool

    @property
    def events(self) -> Tensor | None:
        """Corrected elements of each sample, int64, shape (batch,)."""
        ...

    def __call__(self, x: Tensor, operands: Operands) -> Tensor:
        """Return the checked output; may work in place."""
        ...

    def to_json(self) -> dict[str, Any]:
        """Return kind, site and parameters."""
        ...


@runtime_checkable
class WholeModelGuard(Protocol):
    """A guard around the whole forward pass: of stored codes, or by votes.

    It sees stored bits after faults are in them, and the output after taps. ``site`` names what it guards for people,
    such as a parameter, or is empty; it need not be a place that computes. ``events`` may have shape (1,): stored bits
    belong to every sample.
    """

    kind: str
    site: str

    @property
    def events(self) -> Tensor | None:
        """Corrected elements of each sample, int64, shape (batch,)."""
        ...

    def before(self, model: nn.Module) -> None:
        """Check, and may correct, what ``model`` stores; called before each forward pass."""
        ...

    def after(self, model: nn.Module, output: Any) -> Any:
        """Return the checked output; not called when the pass failed."""
        ...

    def to_json(self) -> dict[str, Any]:
        """Return kind, site and parameters."""
        ...


AnyGuard = Guard | OperandGuard | WholeModelGuard


def alarms_of(guard: AnyGuard) -> Tensor | None:
    """Return what ``guard`` found wrong in the last forward and did not set right; None where it counts no such."""
    found: Tensor | None = getattr(guard, "alarms", None)
    return found


def apply_guards(chain: Sequence[Guard | OperandGuard], output: Tensor, operands: Operands) -> Tensor:
    """Return what the guards of one site make of its ``output``, shape (batch, ...), one after the other.

    What an operation in place wrote is replaced in place, since it may have other readers; a guard with a true
    ``replaces`` leaves it alone, and only later readers of the site see what it returned.
    """
    for guard in chain:
        result = guard(output, operands) if getattr(guard, "operands", False) else guard(output)  # type: ignore[call-arg]
        output = result if getattr(guard, "replaces", False) else settle(output, result, operands.args)
    return output


def guards_by_site(installed: Sequence[AnyGuard]) -> dict[str, list[Guard | OperandGuard]]:
    """Return the guards of each site, in the order in which they run; guards of the whole model are left out."""
    chains: dict[str, list[Guard | OperandGuard]] = {}
    for guard in installed:
        if not isinstance(guard, WholeModelGuard):
            chains.setdefault(guard.site, []).append(guard)
    return chains
