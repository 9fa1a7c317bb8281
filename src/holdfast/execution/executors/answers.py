"""What a worker sends back: the result of one item as JSON, or the error of ours that it met."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from holdfast import errors
from holdfast.errors import HoldfastError


def answer(task: Callable[[int], Any], item: int) -> bytes:
    """Run ``task`` on ``item`` and return the answer to send; other errors than ours end the worker."""
    try:
        return json.dumps({"item": item, "result": task(item)}).encode()
    except HoldfastError as error:
        return json.dumps({"error": type(error).__name__, "message": str(error), "hint": error.hint}).encode()


def opened(data: bytes) -> tuple[int, Any]:
    """Return (item, result) of an answer.

    Raises:
        HoldfastError: what the worker met, as the class it was.
    """
    found = json.loads(data)
    if "error" in found:
        kind = getattr(errors, found["error"], HoldfastError)
        error: HoldfastError = kind(found["message"], hint=found["hint"])
        raise error
    return found["item"], found["result"]
