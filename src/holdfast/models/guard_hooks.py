"""How guards run: hooks that stay on the guarded modules, and nothing anywhere else.

A leaf module's guards are called from a forward hook of that module. Guards of functional operations need a
:class:`TorchFunctionMode`, which is entered only while the module that calls these operations runs. All of it is
derived from the list of guards on the model's card, and derived again when that list changes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn
from torch._C import DisableTorchFunction
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from holdfast.models.card import card
from holdfast.models.guard_kinds import AnyGuard, Operands, WholeModelGuard, apply_guards, guards_by_site
from holdfast.models.tap import alike, is_float, operation_name

_KEY = "_holdfast_guard_hooks"


class GuardHooks:
    """The hooks of one guarded model; copied with it, and holding no reference to it."""

    def __init__(self) -> None:
        self._installed: list[AnyGuard] = []
        self._whole: list[WholeModelGuard] = []
        self._ports: list[_Port] = []
        self._scopes: dict[str, _Scope] = {}
        self._handles: list[RemovableHandle] = []
        self._mode = _Operations()
        self.running = False  # a module that is called by itself, outside its model, is not guarded

    @classmethod
    def on(cls, model: nn.Module) -> GuardHooks:
        """Return the hooks of ``model``, installed on first use."""
        found = model.__dict__.get(_KEY)
        if not isinstance(found, GuardHooks):
            found = model.__dict__[_KEY] = cls()
            model.register_forward_pre_hook(found.before)
            model.register_forward_hook(_After(found))
            model.register_forward_hook(found.close, always_call=True)
        return found

    def before(self, model: nn.Module, args: object) -> None:
        """Start a forward pass of the model."""
        self._abandon()
        installed = card(model).guards
        if not _same(installed, self._installed):
            self._derive(model, list(installed))
        for port in self._ports:
            port.calls = 0
        self.running = True
        for guard in self._whole:
            guard.before(model)
        if (scope := self._scopes.get("")) is not None:
            scope.enter(model, None)

    def after(self, model: nn.Module, output: Any) -> Any:
        """Let guards of the whole model check its output."""
        self._abandon()
        for guard in self._whole:
            output = guard.after(model, output)
        return output

    def close(self, model: nn.Module, args: object, output: object) -> None:
        """End a forward pass, also one that failed."""
        self._abandon()

    def _abandon(self) -> None:
        """Leave what an interrupted pass may have left open."""
        self.running = False
        self._mode.abandon()

    def _derive(self, model: nn.Module, installed: list[AnyGuard]) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles, self._ports, self._scopes = [], [], {}
        self._installed, modules = installed, dict(model.named_modules())
        self._whole = [guard for guard in installed if isinstance(guard, WholeModelGuard)]
        places: dict[str, dict[str, list[Any]]] = {}
        for site, chain in guards_by_site(installed).items():
            places.setdefault(site.partition("#")[0], {})[site] = chain
        for place, chains in places.items():
            owner, functional, operation = place.rpartition("/")
            if functional and owner in modules:
                self._scope(owner, modules[owner]).ports[operation] = self._port(place, chains)
            else:
                hook = _LeafHook(self, self._port(place, chains))
                self._handles.append(modules[place].register_forward_hook(hook, with_kwargs=True))

    def _port(self, place: str, chains: dict[str, list[Any]]) -> _Port:
        self._ports.append(port := _Port(place, chains))
        return port

    def _scope(self, path: str, owner: nn.Module) -> _Scope:
        if path not in self._scopes:
            scope = self._scopes[path] = _Scope(self, self._mode)
            if path:  # the root's own pre-hooks are already running
                self._handles.append(owner.register_forward_pre_hook(scope.enter))
                self._handles.append(owner.register_forward_hook(scope.leave, always_call=True))
        return self._scopes[path]


def _same(one: Sequence[AnyGuard], other: Sequence[AnyGuard]) -> bool:
    return len(one) == len(other) and all(a is b for a, b in zip(one, other, strict=True))


class _After:
    """The root's last hook; marked, so that taps of the output run before it."""

    after_taps = True

    def __init__(self, hooks: GuardHooks) -> None:
        self._hooks = hooks

    def __call__(self, model: nn.Module, args: object, output: Any) -> Any:
        return self._hooks.after(model, output)


class _Port:
    """The guards of one place: of each of its calls, and of each tensor where a call returns several."""

    def __init__(self, place: str, chains: dict[str, list[Any]]) -> None:
        self._place, self._chains = place, chains
        self.calls = 0

    def check(self, output: Any, call: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return the checked output of one call, the very object where nothing was replaced."""
        if is_float(output):
            name = f"{self._place}#{self.calls}" if self.calls else self._place
            self.calls += 1
            return self._checked(name, output, call, args, kwargs)
        if not isinstance(output, tuple | list) or not any(map(is_float, output)):
            return output
        name = f"{self._place}#{self.calls}"
        self.calls += 1
        seen = [
            self._checked(f"{name}.{i}", item, call, args, kwargs) if is_float(item) else item
            for i, item in enumerate(output)
        ]
        same = all(new is old for new, old in zip(seen, output, strict=True))
        return output if same else alike(output, seen)

    def _checked(self, name: str, output: Tensor, call: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        chain = self._chains.get(name)
        if chain is None:
            return output
        with DisableTorchFunction():  # what a guard computes is no operation of the model
            return apply_guards(chain, output, Operands(call, args, kwargs))


class _LeafHook:
    """The forward hook of one guarded leaf module; marked, so that taps of the module run before it."""

    after_taps = True

    def __init__(self, hooks: GuardHooks, port: _Port) -> None:
        self._hooks, self._port = hooks, port

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        return self._port.check(output, module, args, kwargs) if self._hooks.running else None


class _Scope:
    """The guards of operations that one module's own ``forward`` calls, by operation."""

    def __init__(self, hooks: GuardHooks, mode: _Operations) -> None:
        self._hooks, self._mode = hooks, mode
        self.ports: dict[str, _Port] = {}
        self._found: dict[Any, _Port | None] = {}
        self._inside: frozenset[nn.Module] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """A copy finds its own modules."""
        return self.__dict__ | {"_inside": None, "_found": {}}

    def port_of(self, func: Any) -> _Port | None:
        """Return the guards of a torch function, if it has any here; called for each operation, so kept by function."""
        try:
            return self._found[func]
        except KeyError:
            port = self._found[func] = self.ports.get(operation_name(func))
            return port

    def inside(self, owner: nn.Module) -> frozenset[nn.Module]:
        """Return all modules inside ``owner``."""
        if self._inside is None:
            self._inside = frozenset(owner.modules()) - {owner}
        return self._inside

    def enter(self, module: nn.Module, args: object) -> None:
        """Begin to watch; a pre-forward hook of the owning module."""
        if self._hooks.running:
            self._mode.enter(module, self)

    def leave(self, module: nn.Module, args: object, output: object) -> None:
        """End it; a forward hook of the owning module."""
        self._mode.leave(self)


class _Operations(TorchFunctionMode):
    """Sees the operations that the innermost guarded owner's ``forward`` calls; entered while one runs."""

    def __init__(self) -> None:
        super().__init__()
        self._owners: list[tuple[nn.Module, _Scope]] = []

    def __getstate__(self) -> dict[str, Any]:
        """A copy made during a pass is not inside it."""
        return self.__dict__ | {"_owners": []}

    def enter(self, module: nn.Module, scope: _Scope) -> None:
        """Begin to watch the operations of ``module``."""
        self._owners.append((module, scope))
        if len(self._owners) == 1:
            self.__enter__()  # type: ignore[no-untyped-call]

    def leave(self, scope: _Scope) -> None:
        """End it, if it was begun."""
        if self._owners and self._owners[-1][1] is scope:
            self._owners.pop()
            if not self._owners:
                self.__exit__(None, None, None)  # type: ignore[no-untyped-call]

    def abandon(self) -> None:
        """Leave whatever was entered."""
        while self._owners:
            self.leave(self._owners[-1][1])

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **kwargs) if kwargs else func(*args)
        owner, scope = self._owners[-1]
        port = scope.port_of(func)
        if port is None or not _runs_innermost(owner, scope):
            return output
        return port.check(output, func, args, kwargs or {})


_CALL = nn.Module._call_impl.__code__


def _running() -> Iterator[nn.Module]:
    """Yield the modules whose forward is running, innermost first."""
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code is _CALL:
            yield frame.f_locals["self"]
        frame = frame.f_back  # type: ignore[assignment]


def _runs_innermost(owner: nn.Module, scope: _Scope) -> bool:
    """Say whether the operation at hand is called by ``owner`` itself rather than by a module inside it.

    It is read off the call stack, since hooks that keep track cost more than the guards, and every module inside
    ``owner`` would need them. A module that a forward makes for itself and calls is no module of the model.
    """
    for module in _running():
        if module is owner:
            return True
        if module in scope.inside(owner):
            return False
    return False  # a pass was interrupted, and this is no operation of the model
