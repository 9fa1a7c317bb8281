"""One text for equal values and another for different ones, down to what closures captured and objects hold.

A value that cannot be told from another of its kind (a file, a generator, a handle of a library) has no such text: it
is refused, by the name of the attribute that holds it.
"""

from __future__ import annotations

import copyreg
import functools
import hashlib
import logging
import types
import weakref
from collections.abc import Callable
from enum import Enum
from threading import Lock, RLock
from typing import TypeGuard

import numpy as np
import torch
from torch import Tensor, nn

from holdfast.errors import InvalidConfig
from holdfast.models.tensors import tensor_digest
from holdfast.shielding.sealing import code
from holdfast.shielding.sealing.memory import is_plain

OF_TORCH = frozenset(nn.Module().__dict__)  # parameters, buffers, hooks, and whether it trains
CARD = "_holdfast"
_MOST_DEEP, _MOST_OBJECTS = 60, 20_000
_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(...), type(NotImplemented))
_PLAIN_OF_TORCH = (torch.dtype, torch.device, torch.memory_format, torch.layout, torch.qscheme)
_STATELESS = (type(Lock()), type(RLock()))  # nothing computes with a lock
_CACHED = functools.cached_property
_HELD = ("_parameters", "_buffers", "_modules")
_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks")
_WITH_KEYWORDS = ("_forward_pre_hooks", "_forward_hooks")
_OPERATORS = (torch._ops.OpOverload, torch._ops.OpOverloadPacket)
_DESCRIPTORS = (
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
    types.GetSetDescriptorType,
    types.MemberDescriptorType,
)

Parts = tuple[str, dict[str, object]]


class Values:
    """Writes the values of one model; its own modules, and the tensors of its state dict, by name.

    Raises:
        InvalidConfig: a part of it was compiled by TorchScript, and holds its code out of reach.
    """

    def __init__(self, model: nn.Module) -> None:
        for path, module in model.named_modules():
            if isinstance(module, torch.jit.ScriptModule):
                raise _refused(path, "was compiled by TorchScript")
        self._names = {id(module): f"module {path!r}" for path, module in model.named_modules()}
        self._names |= {id(value): f"state {name!r}" for name, value in model.state_dict(keep_vars=True).items()}

    def text(self, value: object, at: str) -> str:
        """Return the text of ``value``, which is the attribute ``at``.

        Raises:
            InvalidConfig: something in it cannot be described.
        """
        return _Text(self._names).of(value, at, 0)


class _Text:
    """The text of one value. An object that comes again is numbered, so one that holds itself ends, too."""

    def __init__(self, names: dict[int, str], asked: frozenset[tuple[int, str]] = frozenset()) -> None:
        self._names, self._asked, self._visits = names, asked, 0
        self._met: dict[int, tuple[int, object]] = {}  # objects are kept, since an id is that of a living one

    def of(self, value: object, at: str, depth: int) -> str:
        if type(value) in _PLAIN or isinstance(value, _PLAIN_OF_TORCH):
            return repr(value)
        if id(value) in self._names:
            return self._names[id(value)]
        if _is_numbers(value):
            return _numbers(value, at)
        if id(value) in self._met:
            return f"#{self._met[id(value)][0]}"
        self._meet(value, at, depth)
        return self._compound(value, at, depth + 1)

    def _meet(self, value: object, at: str, depth: int) -> None:
        self._visits += 1
        if depth > _MOST_DEEP or self._visits > _MOST_OBJECTS:
            raise _refused(at, "holds too much, or too deeply, to be described")
        if type(value) is not tuple:  # the interpreter may share equal tuples, or not
            self._met[id(value)] = len(self._met), value

    def _compound(self, value: object, at: str, depth: int) -> str:
        if type(value) is list or type(value) is tuple:
            return (
                type(value).__name__
                + "["
                + ", ".join(self.of(item, f"{at}[{i}]", depth) for i, item in enumerate(value))
                + "]"
            )
        if type(value) is dict:
            items = (f"{self.of(k, at, depth)}: {self.of(v, f'{at}[{k!r:.40}]', depth)}" for k, v in value.items())
            return "{" + ", ".join(items) + "}"
        if type(value) is set or type(value) is frozenset:  # in no order, so each of them on its own
            return type(value).__name__ + str(
                sorted(_Text(self._names, self._asked).of(item, at, depth) for item in value)
            )
        name, parts = _parts(value, at)
        if isinstance(cached := parts.get("cached"), list):
            parts["cached"] = [
                [item.name, item.value] for item in cached if not self._is_what_it_gives(item, at, depth)
            ]
        described = (f"{key}: {self.of(part, f'{at}.{key}', depth)}" for key, part in parts.items())
        return f"{name}<{', '.join(described)}>"

    def _is_what_it_gives(self, cached: _Cached, at: str, depth: int) -> bool:
        """Return whether a cached property would give what is kept for it; one that is being asked for is believed."""
        asked = id(cached.owner), cached.name
        if asked in self._asked:
            return True
        now = cached.kind.func(cached.owner)
        kept, given = (
            _Text(self._names, self._asked | {asked}).of(value, f"{at}.{cached.name}", depth)
            for value in (cached.value, now)
        )
        return kept == given


def _is_numbers(value: object) -> TypeGuard[Tensor | np.ndarray | np.generic]:
    """Return whether ``value`` is numbers and nothing else: a class derived from these may compute otherwise."""
    if isinstance(value, Tensor):
        return is_plain(value)
    if isinstance(value, np.generic):
        return type(value) is value.dtype.type and not value.dtype.hasobject
    return type(value) is np.ndarray and not value.dtype.hasobject


def _numbers(value: Tensor | np.ndarray | np.generic, at: str) -> str:
    if not isinstance(value, Tensor):
        return f"{value.dtype!r}{value.shape}{value.strides} {hashlib.sha256(np.asarray(value).tobytes()).hexdigest()}"
    try:
        return f"{code.named(type(value))} {tensor_digest('', value)}"
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise _refused(at, "is a tensor without readable values") from error


def _parts(value: object, at: str) -> Parts:
    """Return what any other value is called, and what it is made of."""
    if isinstance(value, (types.ModuleType, *_STATELESS)):
        return f"{type(value).__name__} {getattr(value, '__name__', '')}", {}
    if isinstance(value, _OPERATORS):
        return f"operator {value}", {}
    if code.is_found_by_name(value) or (isinstance(value, type) and code.is_built_in(value)):
        return code.named(value), {}
    if type(value) is np.ndarray:
        return "array", {"type": repr(value.dtype), "shape": value.shape, "items": value.tolist()}
    for kind, parts in _KINDS:
        if isinstance(value, kind):
            return type(value).__name__ + " " + str(getattr(value, "__qualname__", "")), parts(value)
    return "object", {"class": type(value)} | _state(value, at)


def _state(value: object, at: str) -> dict[str, object]:
    """Return what an object of any class holds: its attributes, and what it would be made of again."""
    try:
        known = copyreg.dispatch_table.get(type(value))
        made = value.__reduce_ex__(4) if known is None else known(value)
    except Exception as error:  # whatever a class raises that cannot tell its state
        raise _refused(at, f"is a {code.named(type(value))}, whose state cannot be read") from error
    own = {} if isinstance(value, type) else _attributes(value)
    if isinstance(made, str):
        return {"global": made} | own
    default = type(value).__reduce_ex__ is object.__reduce_ex__ and type(value).__reduce__ is object.__reduce__
    maker, arguments, state, items, pairs = (*made, *(None,) * 5)[:5]
    told = {"maker": maker, "arguments": arguments, "items": _all(items), "pairs": _all(pairs)}
    return told | own | ({} if default else {"state": state})


def _attributes(value: object) -> dict[str, object]:
    """Return what is in an object's dict and slots, but for what it worked out from the rest and keeps."""
    state = object.__getstate__(value)
    held: dict[str, object] = {}
    for part in state if isinstance(state, tuple) else (state,):  # of the dict, then of the slots
        held |= part or {}
    cached = {name: kind for name in held if isinstance(kind := getattr(type(value), name, None), _CACHED)}
    kept = {name: item for name, item in held.items() if name not in cached}
    return {"attributes": kept, "cached": [_Cached(value, name, held[name], kind) for name, kind in cached.items()]}


class _Cached:
    """What an object worked out and keeps; somebody may have put something else in its place."""

    def __init__(self, owner: object, name: str, value: object, kind: functools.cached_property[object]) -> None:
        self.owner, self.name, self.value, self.kind = owner, name, value, kind


def _all(items: object) -> object:
    return None if items is None else list(items)  # type: ignore[call-overload]


def _hidden(module: nn.Module) -> dict[str, object]:
    """Return what a module is that the model holds outside its tree, so that no state dict has its weights."""
    own = {name: value for name, value in vars(module).items() if name not in OF_TORCH and name != CARD}
    return {"class": type(module)} | manner(module) | {name: vars(module)[name] for name in _HELD} | own


def manner(module: nn.Module) -> dict[str, object]:
    """Return what torch keeps of how a module is called: whether it trains, and its hooks, without their numbers."""
    told: dict[str, object] = {"training": module.training}
    for hooks in _HOOKS:
        told[f"({hooks.strip('_')})"] = list(getattr(module, hooks).values())
    for hooks in _WITH_KEYWORDS:
        with_keywords = getattr(module, f"{hooks}_with_kwargs")
        told[f"({hooks.strip('_')}_with_kwargs)"] = [key in with_keywords for key in getattr(module, hooks)]
    return told


_KINDS: tuple[tuple[type | tuple[type, ...], Callable[..., dict[str, object]]], ...] = (
    (nn.Module, _hidden),
    (type, code.class_parts),
    (types.FunctionType, code.function_parts),
    (types.MethodType, lambda method: {"function": method.__func__, "of": method.__self__}),
    (types.BuiltinFunctionType, lambda function: {"of": function.__self__}),
    (_DESCRIPTORS, lambda member: {"of": member.__objclass__}),
    (property, lambda value: {"get": value.fget, "set": value.fset, "delete": value.fdel}),
    ((staticmethod, classmethod), lambda value: {"function": value.__func__}),
    (functools._lru_cache_wrapper, lambda value: {"function": value.__wrapped__}),
    (functools.cached_property, lambda value: {"function": value.func}),
    (weakref.ref, lambda reference: {"to": reference()}),
    (types.MappingProxyType, lambda mapping: {"items": dict(mapping)}),
    (Tensor, lambda tensor: {"class": type(tensor), "numbers": tensor.detach().as_subclass(Tensor)} | vars(tensor)),
    (Enum, lambda member: {"class": type(member), "name": member.name, "value": member.value}),
    (logging.Logger, lambda logger: {"name": logger.name}),  # where it writes to changes nothing that is computed
    (torch.fx.Graph, lambda graph: {"steps": str(graph)}),
)


def _refused(at: str, why: str) -> InvalidConfig:
    return InvalidConfig(
        f"{at!r} {why}, so a model with another one would pass for this",
        hint="keep it outside the model, or build it of numbers, texts, tensors and functions",
    )
