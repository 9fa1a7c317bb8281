"""Recording a tape: one real pass, watched below autograd, where composite functions are already taken apart.

What runs is the model itself with its own kernels on real tensors, so the recorded operations are bit for bit those of
an eager pass; nothing is decomposed, functionalised or traced with stand-ins. See decision 15.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from holdfast.errors import InvalidConfig
from holdfast.execution.engines.suffix.tape import Cell, Mark, Read, Slot, Step, Tape
from holdfast.models.guard_kinds import AnyGuard, Guard, Operands
from holdfast.models.tap import Called

_HINT = "engine='hooks' runs every model; engine='auto' falls back to it by itself"


def refusal(reason: str) -> InvalidConfig:
    """Return the error of a model that cannot be replayed."""
    return InvalidConfig(f"the suffix engine cannot replay this model: {reason}", hint=_HINT)


class Recorder(TorchDispatchMode):
    """Notes every operation while open.

    Args:
        inputs: the sample, shape (1, ...).
        model: whose parameters and buffers are known by name.

    Raises:
        InvalidConfig: what runs depends on values that a replay would not follow, or changes what outlives the pass.
    """

    def __init__(self, inputs: Tensor, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._steps: list[Step] = []
        self._cells: list[Cell] = []
        self._marks: dict[tuple[str, str], Mark] = {}
        self._dtypes: list[torch.dtype] = []  # of each cell
        self._alive: list[Tensor] = []  # so that no storage is used for two tensors
        self._constants: set[int] = set()  # storages that were there before the pass
        self._current: dict[int, tuple[int, int]] = {}  # storage -> its cell now, and the first element of that
        self._names: dict[int, set[tuple[str, str]]] = {}
        for name, weight in model.named_parameters(remove_duplicate=False):
            self._names.setdefault(_storage(weight), set()).add(("weights", name))
        for name, buffer in model.named_buffers(remove_duplicate=False):
            self._names.setdefault(_storage(buffer), set()).add(("buffers", name))
        self._allocate(inputs, depends=True)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        _require_plain(func, types)
        if torch.Tag.nondeterministic_seeded in func.tags and _argument(func, args, kwargs, "dropout_p") != 0:
            raise refusal(f"{func} draws random numbers")
        reads: list[Read] = []
        template = self._template(args, reads), {key: self._template(item, reads) for key, item in kwargs.items()}
        depends = any(self._depends(read) for read in reads)
        if depends and torch.Tag.dynamic_output_shape in func.tags:
            raise refusal(f"the shape of {func} depends on values")
        output = func(*args, **kwargs)
        outputs = list(output) if isinstance(output, tuple | list) else [output]
        if depends and _reads_a_value(func, outputs):
            raise refusal(f"it reads a computed value while it runs ({func}), so its path may depend on it")
        self._note(func, template, reads, outputs, _written(func, args, kwargs), depends)
        return output

    def _note(
        self, func: Any, template: Any, reads: list[Read], outputs: Sequence[Any], written: list[Tensor], depends: bool
    ) -> None:
        rewrites = [self._rewrite(tensor, depends) for tensor in {_storage(item): item for item in written}.values()]
        makes = [
            (self._allocate(item, depends), place)
            for place, item in enumerate(outputs)
            if isinstance(item, Tensor) and self._is_new(item)
        ]
        if rewrites or makes:  # all else is a view
            stored = frozenset(name for read in reads if read.constant is not None for name in self._stored(read))
            args, kwargs = template
            self._steps.append(Step(func, args, kwargs, tuple(reads), tuple(rewrites), tuple(makes), stored))

    def _template(self, value: Any, reads: list[Read]) -> Any:
        if isinstance(value, Tensor):
            reads.append(self.read(value))
            return Slot(len(reads) - 1)
        if type(value) in (tuple, list):
            return type(value)(self._template(item, reads) for item in value)
        return value

    def read(self, tensor: Tensor) -> Read:
        """Return how ``tensor`` reads memory now."""
        size, stride = tuple(tensor.shape), tuple(tensor.stride())
        place = self._current.get(_storage(tensor))
        if place is None:
            self._alive.append(tensor)
            self._constants.add(_storage(tensor))
            return Read(-1, size, stride, 0, constant=tensor.detach())
        cell, first = place
        known, offset = self._cells[cell], int(tensor.storage_offset()) - first
        if tensor.dtype != self._dtypes[cell]:
            raise refusal(f"it reads {self._dtypes[cell]} memory as {tensor.dtype}")
        whole = size == known.size and stride == known.stride and offset == 0
        flat = known.plain and tensor.is_contiguous() and offset == 0 and tensor.numel() == _numel(known.size)
        return Read(cell, size, stride, offset, whole=whole, flat=flat)

    def depends(self, tensor: Tensor) -> bool:
        """Say whether ``tensor`` depends on the input or on a stored float."""
        return self._depends(self.read(tensor))

    def _allocate(self, tensor: Tensor, depends: bool) -> int:
        if tensor.is_complex():
            raise refusal("it computes complex numbers")
        storage = tensor.untyped_storage()
        whole = storage.nbytes() == tensor.numel() * tensor.element_size()
        dense = whole and _is_dense(tensor)
        self._cells.append(
            Cell(tuple(tensor.shape), tuple(tensor.stride()), dense, whole and tensor.is_contiguous(), depends)
        )
        self._dtypes.append(tensor.dtype)
        self._alive.append(tensor)
        self._current[_storage(tensor)] = (len(self._cells) - 1, int(tensor.storage_offset()))
        return len(self._cells) - 1

    def _rewrite(self, tensor: Tensor, depends: bool) -> tuple[int, int]:
        key = _storage(tensor)
        if key not in self._current:
            names = ", ".join(name for _, name in sorted(self._names.get(key, ()))) or "a tensor of its own"
            raise refusal(f"it writes to {names} while it runs")
        old, first = self._current[key]
        before = self._cells[old]
        self._cells.append(Cell(before.size, before.stride, before.dense, before.plain, depends or before.depends))
        self._dtypes.append(self._dtypes[old])
        self._current[key] = (len(self._cells) - 1, first)
        return old, len(self._cells) - 1

    def _is_new(self, tensor: Tensor) -> bool:
        key = _storage(tensor)
        return not (key in self._current or key in self._names or key in self._constants)

    def _stored(self, read: Read) -> set[tuple[str, str]]:
        return set() if read.constant is None else self._names.get(_storage(read.constant), set())

    def _depends(self, read: Read) -> bool:
        if read.constant is not None:
            return bool(self._stored(read)) and read.constant.is_floating_point()
        return self._cells[read.cell].depends

    def mark(self, kind: str, name: str, tensor: Tensor) -> None:
        """Note that the site ``kind:name`` is ``tensor`` as it is now."""
        read = self.read(tensor)
        if read.cell >= 0:  # what is stored and merely passed on is no computed site
            self._marks[kind, name] = Mark(len(self._steps), read)

    def guarded(self, guard: Guard, number: int, tensor: Tensor, called: Called | None = None) -> None:
        """Note that a guard runs on ``tensor``: an operation in place.

        Args:
            guard: of the site.
            number: of the guard.
            tensor: what the site computed.
            called: what computed it, its arguments and its keywords, for a guard that looks at them.
        """
        reads = [self.read(tensor)]
        if reads[0].cell < 0:
            raise refusal("a guard watches a stored tensor")
        call, args, kwargs = (None, (), {}) if called is None else called
        template = self._template(args, reads), {key: self._template(item, reads) for key, item in kwargs.items()}
        change = self._rewrite(tensor, True)
        stored = {name for read in reads for name in self._stored(read)} | self._held(call)
        runs = guard if call is None else Checking(guard, call)
        args = (Slot(0), *template[0])
        self._steps.append(Step(runs, args, template[1], tuple(reads), (change,), (), frozenset(stored), number))

    def _held(self, call: object) -> set[tuple[str, str]]:
        """Return the names of the floats that a module holds, which a guard of it may compute with again."""
        held = call.parameters(recurse=False) if isinstance(call, nn.Module) else ()
        return {name for item in held for name in self._names.get(_storage(item), ())}

    def tape(self, output: object, guards: Sequence[AnyGuard]) -> Tape:
        """Return what was recorded.

        Raises:
            InvalidConfig: the model returned something else than one computed tensor.
        """
        if not isinstance(output, Tensor):
            raise refusal("it does not return one tensor")
        read = self.read(output)
        if read.cell < 0:
            raise refusal("its output is no computed tensor")
        return Tape(tuple(self._steps), tuple(self._cells), self._marks, read, tuple(guards))


@dataclass(frozen=True, slots=True)
class Checking:
    """A guard that looks at operands, as a step: its first argument is the output, the others are the operands."""

    guard: Guard
    operation: Callable[..., Any]

    def __call__(self, output: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return the checked output."""
        checked: Tensor = self.guard(output, Operands(self.operation, args, kwargs))  # type: ignore[call-arg]
        return checked


def _require_plain(func: Any, types: Any) -> None:
    if any(kind not in (Tensor, nn.Parameter, nn.Buffer) for kind in types):
        raise refusal("it computes with tensors of a type of its own")
    if torch.Tag.inplace_view in func.tags:
        raise refusal(f"{func} changes the shape of a tensor in place")


def _reads_a_value(func: Any, outputs: Sequence[Any]) -> bool:
    """Say whether ``func`` gave Python a number; of attention on a GPU, that is a length, which no value decides."""
    known: tuple[type, ...] = (Tensor, type(None))
    if "_scaled_dot_product_" in str(func):
        known = (*known, int)
    return not all(isinstance(item, known) for item in outputs)


def _written(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> list[Tensor]:
    """Return the tensors that ``func`` writes to, by its schema."""
    found: list[Tensor] = []
    for place, argument in enumerate(func._schema.arguments):
        if argument.alias_info is None or not argument.alias_info.is_write:
            continue
        value = args[place] if place < len(args) else kwargs.get(argument.name)
        items = value if isinstance(value, tuple | list) else [value]
        found += [item for item in items if isinstance(item, Tensor)]
    return found


def _argument(func: Any, args: Sequence[Any], kwargs: dict[str, Any], name: str) -> Any:
    """Return what ``func`` is called with as ``name``, or None if it takes no such argument."""
    for place, argument in enumerate(func._schema.arguments):
        if argument.name == name:
            return args[place] if place < len(args) else kwargs.get(name, argument.default_value)
    return None


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _numel(size: Sequence[int]) -> int:
    total = 1
    for length in size:
        total *= length
    return total


def _is_dense(tensor: Tensor) -> bool:
    """Say whether the strides are a permutation of contiguous ones."""
    expected = 1
    for stride, length in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if length != 1:
            if stride != expected:
                return False
            expected *= length
    return True
