"""What a function or a class is beside its name: bytecode, defaults, captured values, and the globals it reads.

Whatever a module of Python holds under its own name is the code that both sides run, so it is named. A lambda, a
closure or a class made in a function is not found that way, and two of one name may compute different things.
"""

from __future__ import annotations

import builtins
import dis
import hashlib
import sys
from collections.abc import Iterator
from types import CellType, CodeType, FunctionType, ModuleType

_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: made when the program runs; others are part of the interpreter or a library
_NOT_BEHAVIOUR = frozenset(
    {
        "__dict__",
        "__weakref__",
        "__module__",
        "__doc__",
        "__qualname__",
        "__annotations__",
        "_abc_impl",
        "__slotnames__",
    }
)


def named(value: object) -> str:
    """Return the name by which a function or a class calls itself."""
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', '')}"


def is_found_by_name(value: object) -> bool:
    """Return whether the module and name that ``value`` gives lead to ``value`` itself, not just to its like."""
    found: object = sys.modules.get(str(getattr(value, "__module__", "")))
    for name in str(getattr(value, "__qualname__", "<none>")).split("."):
        found = getattr(found, name, None)
    return found is value


def is_built_in(kind: type) -> bool:
    """Return whether a class is one of the interpreter's or of a compiled library, and so the same for all."""
    return not kind.__flags__ & _HEAP_TYPE


def function_parts(function: FunctionType) -> dict[str, object]:
    """Return what a function computes with."""
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    return {
        "bytecode": hashlib.sha256(repr(_code(function.__code__)).encode()).hexdigest(),
        "defaults": function.__defaults__,
        "keyword defaults": function.__kwdefaults__,
        "captured": {name: _content(cell) for name, cell in cells},
        "globals": _globals(function),
        "read through": _read_through(function),
        "attributes": dict(vars(function)),
    }


def class_parts(kind: type) -> dict[str, object]:
    """Return the bases of a class and what it defines."""
    members = {name: value for name, value in vars(kind).items() if name not in _NOT_BEHAVIOUR}
    return {"metaclass": type(kind), "bases": kind.__bases__, "members": members}


def _content(cell: CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # a name that was captured before it was bound
        return "(empty)"


def _globals(function: FunctionType) -> dict[str, object]:
    names = sorted(set(_global_names(function.__code__)))
    return {
        name: function.__globals__.get(name, "(unbound)")
        for name in names
        if name in function.__globals__ or not hasattr(builtins, name)
    }


def _read_through(function: FunctionType) -> dict[str, object]:
    """Return the values that ``function`` may read as attributes of modules and classes that it reaches.

    Every name and text in its code counts as an attribute of each of them, so that other names for a module, and
    ``getattr``, hide nothing. What is itself code found under its own name is left out, and followed if it has members.
    """
    roots = {**_globals(function), **(function.__kwdefaults__ or {}), **_imported(function.__code__)}
    roots |= {f"default {place}": value for place, value in enumerate(function.__defaults__ or ())}
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    roots |= {name: _content(cell) for name, cell in cells}
    names, found, met = sorted(set(_attribute_names(function.__code__))), dict[str, object](), set[int]()
    left = [(at, value) for at, value in sorted(roots.items()) if _has_members(value)]
    while left:
        at, holder = left.pop()
        if id(holder) not in met:
            met.add(id(holder))
            members = [(f"{at}.{name}", value) for name in names for value in _member(holder, name)]
            left += [(path, value) for path, value in members if _has_members(value)]
            found |= {path: value for path, value in members if not (_has_members(value) or is_found_by_name(value))}
    return found


def _has_members(value: object) -> bool:
    return isinstance(value, ModuleType) or (isinstance(value, type) and is_found_by_name(value))


def _member(holder: object, name: str) -> list[object]:
    """Return what is kept under ``name``, without asking the holder to make it."""
    spaces = [vars(kind) for kind in holder.__mro__] if isinstance(holder, type) else [vars(holder)]
    return [space[name] for space in spaces if name in space and name not in _NOT_BEHAVIOUR][:1]


def _attribute_names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for value in code.co_consts:
        if isinstance(value, CodeType):
            yield from _attribute_names(value)
        elif isinstance(value, str) and value.isidentifier():
            yield value


def _imported(code: CodeType) -> dict[str, object]:
    """Return the modules that ``code`` itself imports, as far as they are there."""
    names = {step.argval for step in dis.get_instructions(code) if step.opname == "IMPORT_NAME"}
    names |= {name.partition(".")[0] for name in names}
    return {name: sys.modules[name] for name in names if name in sys.modules}


def _global_names(code: CodeType) -> Iterator[str]:
    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            yield step.argval
    for value in code.co_consts:
        if isinstance(value, CodeType):
            yield from _global_names(value)


def _code(code: CodeType) -> tuple[object, ...]:
    """Return all of ``code`` but where it was written."""
    counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
    names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
    return (*counts, *names, code.co_code, code.co_exceptiontable, tuple(map(_constant, code.co_consts)))


def _constant(value: object) -> object:
    if isinstance(value, CodeType):
        return _code(value)
    if isinstance(value, tuple):
        return tuple(map(_constant, value))
    return sorted(map(repr, value)) if isinstance(value, frozenset) else value
