"""What happens inside fused operators: attention scores, softmax and products; the statistics of norms.

A fused kernel never writes these values where they could be seen. Inside :class:`Unfused` the operators are computed
step by step instead, and every step is a place ``path/operator/step`` (``norm1/layer_norm/rstd``,
``attn/scaled_dot_product_attention/softmax``), with ``#1``, ``#2``, ... for repeats of the operator in one pass. Steps
are rounded where a fused kernel may not round, so a model is only compared with itself run the same way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from holdfast.models.unfused import STEPS

Visit = Callable[[str, Tensor], Tensor]


class Unfused(TorchFunctionMode):
    """Compute fused operators step by step while the context is open, and visit every step.

    Open it before a tap: what a tap sees from then on is the same as without.

    Args:
        model: hooks are added on entry and removed on exit, to know which module an operator runs in.
        visit: gets the name of a step and its value, shape (batch, ...), and returns what the model goes on with.
    """

    def __init__(self, model: nn.Module, visit: Visit | None = None) -> None:
        super().__init__()
        self._model, self._visit = model, visit
        self._handles: list[RemovableHandle] = []
        self._stack: list[str] = []
        self._calls: Counter[str] = Counter()

    def __enter__(self) -> Unfused:
        self._handles.append(self._model.register_forward_pre_hook(self._restart, prepend=True))
        for path, module in self._model.named_modules():
            self._track(path, module)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)  # type: ignore[no-untyped-call]
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _restart(self, _: nn.Module, __: object) -> None:
        self._calls.clear()
        self._stack.clear()

    def _track(self, path: str, module: nn.Module) -> None:
        def enter(_: nn.Module, __: object) -> None:
            self._stack.append(path)

        def leave(_: nn.Module, __: object, ___: object) -> None:
            if self._stack:
                self._stack.pop()

        self._handles.append(module.register_forward_pre_hook(enter))
        self._handles.append(module.register_forward_hook(leave, always_call=True))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in STEPS or not self._stack:
            return func(*args, **kwargs)
        name, steps = STEPS[func]
        place = f"{self._stack[-1]}/{name}"
        call = self._calls[place]
        self._calls[place] += 1
        place = f"{place}#{call}" if call else place

        def step(what: str, value: Tensor) -> Tensor:
            return value if self._visit is None else self._visit(f"{place}/{what}", value)

        return steps(step, *args, **kwargs)


def replacing(model: nn.Module, taps: Mapping[str, Callable[[Tensor], Tensor]]) -> Unfused:
    """Return a context in which fused operators run unfused, and named steps are replaced by what their tap returns."""

    def visit(name: str, value: Tensor) -> Tensor:
        return taps[name](value) if name in taps else value

    return Unfused(model, visit)


@contextmanager
def no_fast_path() -> Iterator[None]:
    """Have torch run its transformer layers module by module, with a tap or without; else their bits would differ."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
