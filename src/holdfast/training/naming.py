"""What an augmentation is called, so that a journal of one training never goes on as another."""

from __future__ import annotations

import dataclasses
import functools
from types import BuiltinFunctionType, FunctionType, MethodType

from holdfast.errors import InvalidConfig

_PLAIN = (type(None), bool, int, float, complex, str, bytes)


def identity(call: object, *, exact: bool = False) -> str:
    """Return a text that says which augmentation ``call`` is.

    A dataclass is its repr, a function its qualified name, ``functools.partial`` a function and its arguments. Of
    anything else only the type is known: closures of one factory, for example, have one name.

    Args:
        call: the augmentation.
        exact: refuse what two different augmentations could be called.

    Raises:
        InvalidConfig: ``exact``, and a closure, a lambda, something local, or an object that hides what it holds.
    """
    if dataclasses.is_dataclass(call) and not isinstance(call, type):
        return _told_apart(repr(call), exact)
    if isinstance(call, functools.partial):
        named = [f"{key}={_argument(value, exact)}" for key, value in sorted(call.keywords.items())]
        return f"partial({', '.join([identity(call.func, exact=exact), *_arguments(call.args, exact), *named])})"
    if isinstance(call, MethodType) and not isinstance(call.__self__, type):
        return f"{identity(call.__self__, exact=exact)}.{call.__name__}"
    named_by = call if hasattr(call, "__qualname__") else type(call)
    name = f"{named_by.__module__}.{named_by.__qualname__}"
    if exact and not _is_global(call):
        raise InvalidConfig(f"a journal cannot tell {name} from another of that name", hint=_HINT)
    return name


_HINT = "make the augmentation a dataclass or a function of a module, with functools.partial for its arguments"


def _is_global(call: object) -> bool:
    """Whether the qualified name is all there is to know of ``call``."""
    if isinstance(call, BuiltinFunctionType | MethodType | type):  # a method of a class, here
        return "<" not in call.__qualname__
    return isinstance(call, FunctionType) and call.__closure__ is None and "<" not in call.__qualname__


def _arguments(values: tuple[object, ...], exact: bool) -> list[str]:
    return [_argument(value, exact) for value in values]


def _argument(value: object, exact: bool) -> str:
    if callable(value):
        return identity(value, exact=exact)
    if isinstance(value, tuple | list):
        return f"({', '.join(_arguments(tuple(value), exact))})"
    if exact and not (isinstance(value, _PLAIN) or dataclasses.is_dataclass(value)):
        raise InvalidConfig(f"a journal cannot tell one {type(value).__name__} argument from another", hint=_HINT)
    return _told_apart(repr(value), exact and not isinstance(value, _PLAIN))


def _told_apart(text: str, exact: bool) -> str:
    """Return ``text``; an address in it may be taken again, and an ellipsis stands for anything."""
    if exact and (" at 0x" in text or "..." in text):
        raise InvalidConfig(f"a journal cannot tell {text} from another augmentation", hint=_HINT)
    return text
