"""From a captured graph to exact steps: the machinery; the rules for each operation are in ``rules``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from holdfast.errors import InvalidConfig
from holdfast.models import Lens
from holdfast.shielding.graph import exact
from holdfast.shielding.graph.calibration import Seen
from holdfast.shielding.graph.capture import Captured
from holdfast.shielding.graph.naming import describe, module_path
from holdfast.shielding.graph.program import RESERVED, Ref, Step

Rule = Callable[["Lowering", fx.Node], Any]


class Rules:
    """Which rule lowers which operation, and at which arguments it wants the magnitudes of calibration."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[Rule, tuple[int, ...]]] = {}

    def lower(self, *operations: str, observes: tuple[int, ...] = ()) -> Callable[[Rule], Rule]:
        """Return a decorator that registers a rule for operations named ``aten.OP.OVERLOAD`` or ``aten.OP``."""

        def add(rule: Rule) -> Rule:
            self._known.update(dict.fromkeys(operations, (rule, observes)))
            return rule

        return add

    def find(self, node: fx.Node) -> tuple[Rule, tuple[int, ...]] | None:
        """Return the rule for a node and the arguments it observes."""
        full = target_name(node)
        return self._known.get(full) or self._known.get(full.rpartition(".")[0])


def target_name(node: fx.Node) -> str:
    """Return ``aten.OP.OVERLOAD`` or ``python.FUNCTION``."""
    if isinstance(node.target, torch._ops.OpOverload):
        return str(node.target)
    return f"python.{getattr(node.target, '__name__', node.target)}"


class Lowering:
    """Collects the steps of one integer model.

    Attributes:
        values: node name -> reference, tuple of references, or a constant.
        batch_norm: linear node -> the batch normalisation folded into it.
    """

    def __init__(self, captured: Captured, seen: Seen, top_code: int, lenses: Mapping[str, Lens]) -> None:
        self.captured, self.seen, self.top_code, self.lenses = captured, seen, top_code, lenses
        self.values: dict[str, Any] = {captured.input: Ref(captured.input)}
        self.steps: list[Step] = []
        self.modules: dict[str, nn.Module] = {}
        self.constants: dict[str, Tensor] = {}
        self.batch_norm: dict[str, fx.Node] = {}
        self.table = exact.softmax_table()
        self._leaves = {path for path, part in captured.model.named_modules() if not any(part.children())}

    def value(self, argument: Any) -> Any:
        """Return an argument with nodes replaced by references, or by themselves where they are constant."""
        return fx.node.map_arg(argument, self._of_node)

    def _of_node(self, node: fx.Node) -> Any:
        if node.name in self.values:
            return self.values[node.name]
        found = self.captured.constants[node.name]
        if not isinstance(found, Tensor):
            return found
        self.constants[node.name] = found
        return Ref(node.name)

    def constant(self, argument: Any) -> Any:
        """Return a constant argument's own value, or None where it depends on the input (or is absent)."""
        if isinstance(argument, fx.Node):
            return self.captured.constants.get(argument.name)
        return argument

    def peak(self, node: fx.Node, place: int) -> float:
        """Return the largest magnitude of an observed argument."""
        return self.seen.peaks[node.name, place]

    def shape(self, argument: Any) -> tuple[int, ...]:
        """Return the calibration shape of an argument, batch first."""
        if argument.name in self.captured.constants:
            return tuple(self.captured.constants[argument.name].shape)
        return self.seen.shapes[argument.name]

    def path_for(self, node: fx.Node, word: str) -> str:
        """Return a fresh path near the module that made the node, which is that module where it is a leaf."""
        module = module_path(node)
        wanted = module if module in self._leaves and module else ".".join(filter(None, (module, word)))
        return self.fresh(wanted)

    def fresh(self, wanted: str) -> str:
        """Return ``wanted``, with a number where it is taken, by another node or by the integer model itself."""
        first, _, rest = wanted.partition(".")
        if first in RESERVED or first.startswith("constant_"):
            wanted = ".".join(filter(None, (f"{first}_", rest)))
        for known, module in self.modules.items():
            inner = wanted.removeprefix(f"{known}.")
            if inner != wanted and hasattr(module, inner.partition(".")[0]):
                wanted = f"{known}_.{inner}"
                break
        path, number = wanted, 1
        while path in self.modules or any(known.startswith(f"{path}.") for known in self.modules):
            number += 1
            path = f"{wanted}_{number}"
        return path

    def call(
        self,
        node: fx.Node,
        target: str,
        *args: Any,
        part: str = "",
        moves: bool = False,
        elements: int | None = None,
        **keywords: Any,
    ) -> Ref:
        """Append a step that calls a function.

        Args:
            part: name of one of several steps of a node.
            moves: it computes nothing.
            elements: of its output per sample, where that is not the node's own.
        """
        return self._append(node, part, elements, target=target, args=args, keywords=keywords, moves=moves)

    def module(
        self,
        node: fx.Node,
        path: str,
        module: nn.Module,
        *args: Any,
        part: str = "",
        operation: str,
        elements: int | None = None,
    ) -> Ref:
        """Append a step that calls a new module; arguments as in :meth:`call`."""
        self.modules[path] = module
        return self._append(node, part, elements, target="module", path=path, args=args, operation=operation)

    def _append(
        self, node: fx.Node, part: str, elements: int | None, *, target: str, operation: str = "", **rest: Any
    ) -> Ref:
        name = f"{node.name}__{part}" if part else node.name
        word = operation or target.split(".")[1]
        count = self.seen.elements(node.name) if elements is None else elements
        self.steps.append(Step(name=name, target=target, operation=word, elements=count, **rest))
        return Ref(name)

    def tensors(self, node: fx.Node) -> Iterator[Any]:
        """Yield what is known of the tensors that a node reads and makes."""
        for found in (node, *node.all_input_nodes):
            value = found.meta.get("val")
            yield from (part for part in (value if isinstance(value, list | tuple) else [value]))

    def refuse(self, node: fx.Node, why: str, hint: str) -> InvalidConfig:
        """Return the error that names a node which cannot be exported."""
        return InvalidConfig(f"{describe(node)} {why}", hint=hint)


def paired(value: Any) -> tuple[int, int]:
    """Return one number or two as two."""
    parts = [value] if isinstance(value, int) else list(value)
    return (int(parts[0]), int(parts[-1]))


def optional(node: fx.Node, place: int, name: str, default: Any) -> Any:
    """Return an argument of a node by position or name."""
    return node.args[place] if len(node.args) > place else node.kwargs.get(name, default)
