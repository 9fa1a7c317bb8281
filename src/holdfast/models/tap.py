"""Seeing and replacing what flows through a model, by stable names.

Two kinds of places have a name. A *leaf module's* output is called by the module's path; a *functional* operation
that a non-leaf module's ``forward`` calls directly (a residual ``+``, a softmax, Q @ K) is called ``path/op``. Repeats
in one pass get ``#1``, ``#2``, ... Only operations that write values count; views do not. Where a call returns
several tensors, as an LSTM does, ``place#k.i`` is tensor ``i`` of call ``k``, both counted from 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch._C import DisableTorchFunction
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from holdfast.errors import NoSuchSite
from holdfast.models.outputs import logits_of, with_logits

Visit = Callable[[str, Tensor], Tensor]
_WORDS = {"truediv": "div", "floordiv": "floor_divide"}


def ends(model: nn.Module) -> tuple[str, str]:
    """Return the names of the model's own input and output: ``input#model`` where a module is called ``input``."""
    taken = {path for path, _ in model.named_modules()}
    first, last = (f"{name}#model" if name in taken else name for name in ("input", "output"))
    return first, last


def require_place(model: nn.Module, name: str) -> None:
    """Raise :class:`NoSuchSite` when ``model`` has no module that could compute the place ``name``."""
    modules = dict(model.named_modules())
    place = name.partition("#")[0]
    owner, functional, _ = place.rpartition("/")
    if functional and owner in modules and not _is_leaf(owner, modules[owner]):
        return
    if functional or place not in modules or not _is_leaf(place, modules[place]):
        raise NoSuchSite(f"the model computes no {name}", hint="holdfast.sites(model, example) lists what it computes")


def _is_leaf(path: str, module: nn.Module) -> bool:
    """Say whether a module counts as one operation; the root never does, its result is the model's output."""
    return path != "" and next(module.children(), None) is None


def operation_name(func: Callable[..., Any]) -> str:
    """Return the field's name of a torch function: ``__iadd__``, ``add_`` and ``add`` are all ``add``."""
    name = getattr(func, "__name__", "op")
    dunder = name.startswith("__")
    name = name.strip("_")
    if dunder and name[:1] in "ir" and hasattr(torch, _WORDS.get(name[1:], name[1:])):
        name = name[1:]
    return _WORDS.get(name, name)


Called = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]


class Watch:
    """Call ``visit(name, output)`` at every named place of each forward pass and go on with what it returns.

    Args:
        model: hooks are added on entry and removed on exit; nothing else changes.
        visit: gets the name and the output, shape (batch, ...).
        modules: paths of leaf modules to watch; None means all of them.
        functional: whether to watch functional operations too (a few microseconds for each).

    Attributes:
        called: while ``visit`` runs, the leaf module or torch function that computed, its arguments and its keywords.
    """

    def __init__(self, model: nn.Module, visit: Visit, *, modules: set[str] | None = None, functional: bool = True):
        self._model, self._visit = model, visit
        self._modules, self._functional = modules, functional
        self._handles: list[RemovableHandle] = []
        self._stack: list[tuple[str, bool]] = []
        self._calls: Counter[str] = Counter()
        self._mode = _FunctionWatch(self)
        self.called: Called | None = None

    def __enter__(self) -> Watch:
        self._handles.append(self._model.register_forward_pre_hook(self._restart, prepend=True))
        for path, module in self._model.named_modules():
            leaf = _is_leaf(path, module)
            if self._functional:
                self._track(path, module, leaf)
            if leaf and (self._modules is None or path in self._modules):
                self._handles.append(before_guards(module, self._leaf_hook(path), with_kwargs=True))
        if self._functional:
            self._mode.__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._functional:
            self._mode.__exit__(kind, error, trace)  # type: ignore[no-untyped-call]
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _restart(self, module: nn.Module, args: object) -> None:
        self._calls.clear()
        self._stack.clear()

    def _track(self, path: str, module: nn.Module, leaf: bool) -> None:
        def enter(_: nn.Module, __: object) -> None:
            self._stack.append((path, leaf))

        def leave(_: nn.Module, __: object, ___: object) -> None:
            if self._stack:
                self._stack.pop()

        self._handles.append(module.register_forward_pre_hook(enter))
        self._handles.append(module.register_forward_hook(leave, always_call=True))

    def _leaf_hook(self, path: str) -> Callable[[nn.Module, Any, Any, Any], Any]:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
            return self.see(path, module, args, kwargs, output)

        return hook

    def functional(self, func: Callable[..., Any], args: Any, kwargs: dict[str, Any], output: Any) -> Any:
        """Visit the result of a functional call when a non-leaf module is executing."""
        if not self._stack or self._stack[-1][1]:
            return output
        return self.see(f"{self._stack[-1][0]}/{operation_name(func)}", func, args, kwargs, output)

    def see(self, place: str, call: Callable[..., Any], args: Any, kwargs: dict[str, Any], output: Any) -> Any:
        """Visit what ``call``, a leaf module or a torch function, computed from its ``args`` and ``kwargs``."""
        called = call, args, kwargs
        if is_float(output):
            return self._settle(self._numbered(place), output, called)
        if not isinstance(output, tuple | list) or not any(map(is_float, output)):
            return output
        number = self._calls[place]
        self._calls[place] += 1
        seen = [
            self._settle(f"{place}#{number}.{i}", item, called) if is_float(item) else item
            for i, item in enumerate(output)
        ]
        same = all(new is old for new, old in zip(seen, output, strict=True))
        return output if same else alike(output, seen)

    def _settle(self, name: str, output: Tensor, called: Called) -> Tensor:
        self.called, (_, args, kwargs) = called, called
        with DisableTorchFunction():  # what a visit computes is no operation of the model
            return settle(output, self._visit(name, output), (*args, *kwargs.values()))

    def _numbered(self, place: str) -> str:
        count = self._calls[place]
        self._calls[place] += 1
        return f"{place}#{count}" if count else place


def settle(output: Tensor, result: Tensor, args: tuple[Any, ...]) -> Tensor:
    """Return what stands for ``output`` once it was replaced by ``result``.

    What an operation in place wrote, one of its ``args``, is replaced in place too, as it may have other readers.
    """
    if result is output or output.requires_grad or all(item is not output for item in args):
        return result
    return output.copy_(result)


def before_guards(module: nn.Module, hook: Callable[..., Any], *, with_kwargs: bool = False) -> RemovableHandle:
    """Register a forward hook that runs after the hooks there are, but before those of guards."""
    handle = module.register_forward_hook(hook, with_kwargs=with_kwargs)
    hooks = module._forward_hooks
    for key in [key for key, item in hooks.items() if getattr(item, "after_taps", False)]:
        hooks[key] = hooks.pop(key)
    return handle


def alike(sequence: Any, items: list[Any]) -> Any:
    """Return ``items`` as a list, tuple, named tuple or torch return type like ``sequence``."""
    return type(sequence)(*items) if hasattr(sequence, "_fields") else type(sequence)(items)


class _FunctionWatch(TorchFunctionMode):
    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self._watch = watch

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        return self._watch.functional(func, args, kwargs, output)


def is_float(value: object) -> bool:
    """Say whether ``value`` is a tensor of floats."""
    return isinstance(value, Tensor) and value.is_floating_point()


class Tap:
    """Replace the outputs of named places while the context is open.

    Args:
        model: the model.
        taps: site name -> function from the output (batch, ...) to its replacement, which may be the same tensor
            changed in place. ``"input"`` and ``"output"`` name the model's own input and output, see :func:`ends`.

    Taps see values before guards do, so an injected fault can be corrected by a guard at the same place.

    Raises:
        NoSuchSite: no module of the model could compute a named place.
    """

    def __init__(self, model: nn.Module, taps: Mapping[str, Callable[[Tensor], Tensor]]) -> None:
        self._model, self._taps = model, taps
        self._ends = ends(model)
        for name in taps.keys() - set(self._ends):
            require_place(model, name)
        paths = {name.partition("#")[0] for name in taps}
        self._watch = Watch(model, self._replace, modules=paths, functional=any("/" in path for path in paths))
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> Tap:
        self._watch.__enter__()
        first, last = self._ends
        if first in self._taps:
            self._handles.append(self._model.register_forward_pre_hook(self._input))
        if last in self._taps:
            self._handles.append(before_guards(self._model, self._output))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._watch.__exit__(kind, error, trace)
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _replace(self, name: str, output: Tensor) -> Tensor:
        tap = self._taps.get(name)
        return output if tap is None else tap(output)

    def _input(self, _: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        with DisableTorchFunction():  # what a tap computes is no operation of the model
            return (self._taps[self._ends[0]](args[0]), *args[1:])

    def _output(self, _: nn.Module, __: object, output: Any) -> Any:
        with DisableTorchFunction():
            return with_logits(output, self._taps[self._ends[1]](logits_of(output)))


def tap(model: nn.Module, taps: Mapping[str, Callable[[Tensor], Tensor]]) -> Tap:
    """Return a context manager that replaces outputs by site name; see :class:`Tap`."""
    return Tap(model, taps)
