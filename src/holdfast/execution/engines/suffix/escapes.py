"""Values that leave torch while a tape is recorded: what is decided on them, no replay decides again.

Operations that read a number (``item``, ``bool``) show below autograd. Lists and NumPy arrays do not: they read the
memory of a tensor, and what is computed from them comes back as a constant, or as a path that a fault would change.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from holdfast.errors import InvalidConfig

_LEAVING = ("numpy", "tolist", "__array__", "__dlpack__")


class Escapes(TorchFunctionMode):
    """Refuses them while open.

    Args:
        matters: whether a tensor depends on the input or on what may be struck.
        refusal: makes the error from a reason.
    """

    def __init__(self, matters: Callable[[Tensor], bool], refusal: Callable[[str], InvalidConfig]) -> None:
        super().__init__()
        self._matters, self._refusal = matters, refusal

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in _LEAVING and args and isinstance(args[0], Tensor) and self._matters(args[0]):
            raise self._refusal(f"it takes a computed value outside torch ({name}), so its path may depend on it")
        return func(*args, **(kwargs or {}))
