"""Golden answers: what the model says without faults, kept while they fit, and proof that they repeat."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast.errors import InvalidConfig
from holdfast.evidence.digest import digest_bytes
from holdfast.execution.tasks import Answer
from holdfast.numerics import bits

_ROOM = 512 << 20  # bytes of golden answers that are kept


@dataclass(frozen=True, slots=True)
class Golden:
    """One golden answer and what goes with it.

    Attributes:
        answer: to a batch of inputs.
        seconds: that its passes took.
        events: of each guard, in order; int64, shape (batch,), or None where a guard did not run.
        state: digest of what the pass wrote into the model.
    """

    answer: Answer
    seconds: float
    events: tuple[Tensor | None, ...]
    state: str


class Goldens:
    """Computes golden answers and keeps the latest, up to 512 MiB.

    They are computed at the batch composition of the faulty answers, because kernels may round differently for another
    number of rows.
    """

    def __init__(self, compute: Callable[[tuple[int, ...]], Golden]) -> None:
        self._compute, self._left = compute, _ROOM
        self._kept: OrderedDict[tuple[int, ...], Golden] = OrderedDict()

    def __call__(self, inputs: tuple[int, ...]) -> Golden:
        """Return the golden answer to the inputs of these numbers, as one batch."""
        if inputs in self._kept:
            self._kept.move_to_end(inputs)
            return self._kept[inputs]
        found = self._compute(inputs)
        self._kept[inputs] = found
        self._left -= found.answer.output.nbytes
        while self._left < 0 and len(self._kept) > 1:
            _, oldest = self._kept.popitem(last=False)
            self._left += oldest.answer.output.nbytes
        return found

    def forget(self) -> None:
        """Let go of everything, because it would be computed another way now."""
        self._kept.clear()
        self._left = _ROOM


def require_finite(output: Tensor) -> Tensor:
    """Return a copy of a fault-free output that no later pass overwrites.

    Raises:
        InvalidConfig: it holds NaN or infinity.
    """
    if not bool(torch.isfinite(output).all()):
        raise InvalidConfig("the fault-free model gives NaN or infinity", hint="check weights and data")
    return output.clone()


def proven(inputs: tuple[int, ...], first: Answer, second: Answer) -> str:
    """Return the digest of an answer that was given twice.

    Raises:
        InvalidConfig: the bits differ, so no difference could be blamed on a fault; says by how much.
    """
    one, other = first.output, second.output
    if one.shape != other.shape or one.dtype != other.dtype:
        raise _restless(f"{tuple(one.shape)} {one.dtype}, then {tuple(other.shape)} {other.dtype}")
    if not bits.bit_equal(one, other):
        share = float((one != other).double().mean())
        raise _restless(f"{share:.1%} of the outputs differ, by up to {float((one - other).abs().max()):.3g}")
    if first.text is not None and second.text is not None and not torch.equal(first.text, second.text):
        raise _restless("another text")
    return digest_bytes(json.dumps([inputs, str(one.dtype), one.shape]).encode() + _content(first))


def _restless(what: str) -> InvalidConfig:
    return InvalidConfig(
        f"two clean runs of the model give different bits: {what}",
        hint="put it into evaluation mode, turn off what samples, and call torch.use_deterministic_algorithms(True)",
    )


def _content(answer: Answer) -> bytes:
    parts = [bits.int_view(answer.output.contiguous())] + ([answer.text] if answer.text is not None else [])
    return b"".join(part.cpu().contiguous().numpy().tobytes() for part in parts)
