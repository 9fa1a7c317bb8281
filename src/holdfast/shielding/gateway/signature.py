"""What a model takes, and how requests and answers are written: JSON for anybody, safetensors for bulk.

A request is judged before anything is computed from it, and a bad one gets one sentence that says what is wrong. JSON
loses no bit: every float32 is a number that JSON can write exactly, and comes back as the same float32.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from holdfast.errors import InvalidConfig
from holdfast.shielding.gateway.refusal import Refused

JSON, SAFETENSORS = "application/json", "application/x-safetensors"
_NUMBER, _LIST, _HEAD = 32, 8, 4096  # bytes: of a number written in full, of brackets, and of what is around them
_SPARE = 64  # numbers or lists too many that a request may have and still be told its shape
_LITERALS = (b"true", b"false", b"null")


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """What one request may hold.

    Args:
        shape: of one input.
        vocabulary: number of tokens where inputs are tokens, int64 in 0 .. vocabulary - 1; None for float32 inputs.
        most: inputs in one request.

    Raises:
        InvalidConfig: a size that is none.
    """

    shape: tuple[int, ...]
    vocabulary: int | None = None
    most: int = 64

    def __post_init__(self) -> None:
        if not self.shape or min(*self.shape, self.most, 1 if self.vocabulary is None else self.vocabulary) < 1:
            raise InvalidConfig(f"no request can hold {self.most} inputs of shape {self.shape}")

    @property
    def dtype(self) -> torch.dtype:
        """Of the inputs."""
        return torch.float32 if self.vocabulary is None else torch.int64

    def to_json(self) -> dict[str, Any]:
        """Return what a client may ask for."""
        name = str(self.dtype).removeprefix("torch.")
        return {"shape": list(self.shape), "dtype": name, "vocabulary": self.vocabulary, "most": self.most}

    @property
    def numbers(self) -> int:
        """Of the largest request."""
        return self.most * math.prod(self.shape)

    @property
    def lists(self) -> int:
        """Of the largest request: one of inputs, and in each input one for all but its last dimension."""
        return 1 + self.most * sum(math.prod(self.shape[:axis]) for axis in range(len(self.shape)))

    @property
    def longest(self) -> int:
        """Bytes of the largest request that has a reason to be so long."""
        return _NUMBER * self.numbers + _LIST * self.lists + _HEAD

    def read(self, raw: bytes, kind: str = JSON) -> Tensor:
        """Return the inputs of a request, (batch, *shape).

        Raises:
            Refused: the request is malformed, or is for another model.
        """
        inputs = self._from_json(raw) if kind == JSON else _from_safetensors(raw, self.dtype)
        if inputs.shape[1:] != self.shape or not 1 <= len(inputs) <= self.most:
            raise _invalid(f"inputs have shape {list(inputs.shape)}", self._wanted)
        array = inputs.numpy() if isinstance(inputs, Tensor) else inputs  # which takes fewer shapes than torch does
        return self._tokens(array) if self.vocabulary is not None else self._numbers(array)

    def _from_json(self, raw: bytes) -> np.ndarray:
        """Read lists of numbers, no more of them than the model could take: each costs far more than its two bytes."""
        if raw.count(b",") > self.numbers + _SPARE or raw.count(b"[") > self.lists + _SPARE:
            raise _invalid("the request holds more numbers or lists than this model takes", self._wanted)
        inputs = _inputs(raw)
        if _depth(inputs) > len(self.shape) + 1:
            raise _invalid("inputs are nested too deeply", self._wanted)
        try:
            array = np.array(inputs)
        except (ValueError, OverflowError) as error:
            raise _invalid("inputs are lists of different lengths", "make every row as long as the others") from error
        if array.dtype.kind not in "iuf":
            raise _invalid("inputs are not lists of numbers")
        return array

    @property
    def _wanted(self) -> str:
        return f"this model takes [{', '.join(map(str, ('batch', *self.shape)))}], batch 1 .. {self.most}"

    def _numbers(self, inputs: np.ndarray) -> Tensor:
        with np.errstate(over="ignore"):  # what overflows is refused in the next line
            single = inputs.astype(np.float32)
        if not np.isfinite(single).all():
            raise _invalid("inputs hold a number that is not finite in float32", "scale them as in training")
        return torch.from_numpy(single)

    def _tokens(self, inputs: np.ndarray) -> Tensor:
        if inputs.dtype.kind not in "iu":
            raise _invalid("inputs are not whole numbers", "this model takes tokens")
        if inputs.min() < 0 or inputs.max() >= (self.vocabulary or 0):
            raise _invalid(f"a token is outside 0 .. {(self.vocabulary or 0) - 1}", "use the tokens of this model")
        return torch.from_numpy(inputs.astype(np.int64))


def write(outputs: Tensor, kind: str = JSON) -> bytes:
    """Return the bytes of an answer.

    Raises:
        Refused: an output is not finite, which JSON cannot say.
    """
    if kind == SAFETENSORS:
        return save({"outputs": outputs.contiguous()})
    try:
        return json.dumps({"outputs": outputs.tolist()}, allow_nan=False, separators=(",", ":")).encode()
    except ValueError as error:
        raise Refused(
            "an output is not finite, and JSON has no word for it",
            hint=f"ask with {SAFETENSORS} instead",
            outcome="broken",
        ) from error


def _inputs(raw: bytes) -> list[Any]:
    try:
        value = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except RecursionError as error:
        raise _invalid("the request is nested too deeply") from error
    except ValueError as error:
        raise _invalid(f"the request is not strict JSON: {str(error)[:100]}") from error
    if not isinstance(value, dict) or set(value) != {"inputs"}:
        raise _invalid("the request is not an object with the one key inputs", 'send {"inputs": [[...], ...]}')
    found = value["inputs"]
    if not isinstance(found, list) or any(word in raw for word in _LITERALS):
        raise _invalid("inputs are not lists of numbers")
    return found


def _depth(inputs: object) -> int:
    """Return how deep the first number lies."""
    depth = 0
    while isinstance(inputs, list):
        depth, inputs = depth + 1, inputs[0] if inputs else None
    return depth


def _from_safetensors(raw: bytes, dtype: torch.dtype) -> Tensor:
    try:
        tensors = load(raw)
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise _invalid("the request is not in safetensors format") from error
    inputs = tensors.get("inputs")
    if inputs is None or len(tensors) != 1:
        raise _invalid("the request does not hold the one tensor inputs")
    if inputs.dtype != dtype:
        raise _invalid(f"inputs are {inputs.dtype}", f"this model takes {dtype}")
    return inputs


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key stands twice")
    return result


def _no_constant(text: str) -> object:
    raise ValueError(f"{text} is no number of JSON")


def _invalid(message: str, hint: str = "") -> Refused:
    return Refused(message, hint=hint, outcome="invalid")
