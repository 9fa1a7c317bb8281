"""What a model has to compute, node by node: operations, sizes, and who reads whose output."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from holdfast.errors import InvalidConfig
from holdfast.shielding.graph import IntegerModel, Step
from holdfast.shielding.graph.leaves import GroupedConvolution, Product
from holdfast.shielding.integer import IntegerLayer
from holdfast.shielding.planner.small import family
from holdfast.shielding.planner.tied import Held, tied

FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One computing node; sizes are per sample.

    Attributes:
        name: path of its module, or name of its step.
        sources: nodes (or the input) whose outputs it reads.
        macs: multiply-accumulates.
        inner: products in one accumulator of a linear node; 0 elsewhere.
        channels: outputs of a linear node that share a position.
        taken, given: elements of its input and output.
        bound: the largest accumulator magnitude of a linear node, which says how many bytes a residue has.
        weights: bytes it holds: int8 codes of linear nodes, tables and floats of others.
        reason: why it cannot be offloaded under a check; empty for linear nodes.
        family: what the cost of a node that is not linear goes by; empty for linear nodes.
        tied: the other nodes that hold some of its weights, whoever shows one shows them.
    """

    name: str
    operation: str
    sources: tuple[str, ...]
    macs: int = 0
    inner: int = 0
    channels: int = 0
    taken: int = 0
    given: int = 0
    weights: int = 0
    bound: int = 0
    reason: str = ""
    family: str = ""
    tied: tuple[str, ...] = ()

    @property
    def linear(self) -> bool:
        """Whether it can be offloaded under a check."""
        return not self.reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """All computing nodes in order, the input's size, and what the trusted world holds in any case."""

    nodes: tuple[Node, ...]
    input: str
    input_elements: int
    top_code: int

    def linear(self) -> tuple[Node, ...]:
        """Return the nodes that can be offloaded under a check."""
        return tuple(node for node in self.nodes if node.linear)

    def matching(self, patterns: tuple[str, ...]) -> frozenset[str]:
        """Return the linear nodes that match one of the globs.

        Raises:
            InvalidConfig: a glob that matches none.
        """
        found: set[str] = set()
        for pattern in patterns:
            hits = {node.name for node in self.linear() if fnmatchcase(node.name, pattern)}
            if not hits:
                names = ", ".join(node.name for node in self.linear()[:8])
                raise InvalidConfig(f"no linear node matches {pattern!r}", hint=f"there are {names}, ...")
            found |= hits
        return frozenset(found)

    def holders(self, names: Iterable[str]) -> tuple[str, ...]:
        """Return ``names`` and every other node that holds weights of theirs."""
        ties = {node.name: node.tied for node in self.nodes}
        found = list(dict.fromkeys(names))
        for name in found:
            found += [other for other in ties[name] if other not in found]
        return tuple(found)

    def live(self) -> tuple[int, ...]:
        """Return the bytes of values alive after each node: its own output and what later nodes still read."""
        last = {source: place for place, node in enumerate(self.nodes) for source in node.sources}
        sizes = {self.input: self.input_elements} | {node.name: node.given for node in self.nodes}
        alive, result = {self.input}, []
        for place, node in enumerate(self.nodes):
            alive.add(node.name)
            result.append(FLOAT_BYTES * sum(sizes[name] for name in alive))
            alive = {name for name in alive if last.get(name, -1) > place or name == self.nodes[-1].name}
        return tuple(result)

    def peak(self) -> int:
        """Return the most bytes of values alive at once."""
        return max(self.live(), default=FLOAT_BYTES * self.input_elements)


def workload(model: nn.Module) -> Workload:
    """Describe an integer model.

    Raises:
        InvalidConfig: ``model`` does not come from ``graph.export``.
    """
    if not isinstance(model, IntegerModel):
        raise InvalidConfig("a plan is made for an integer graph", hint="make it with shielding.graph.export()")
    origin: dict[str, tuple[str, ...]] = {model.input: (model.input,)}
    given = {model.input: torch.Size(model.input_shape).numel()}
    nodes: list[Node] = []
    counted: set[int] = set()  # tables may be shared
    held: dict[str, tuple[Held, ...]] = {}
    for step in model.steps:
        sources = tuple(dict.fromkeys(part for name in step.sources() for part in origin.get(name, ())))
        given[step.name] = step.elements or max((given.get(name, 0) for name in step.sources()), default=0)
        if not sources or (step.moves and not any(_constants(model, step))):  # an embedding holds its table
            origin[step.name] = sources
            continue
        node = _node(model, step, sources, given, counted)
        nodes.append(node)
        held[node.name] = tuple(_held(model, step))
        origin[step.name] = (node.name,)
    same = tied(held)
    nodes = [replace(node, tied=same[node.name]) for node in nodes]
    return Workload(nodes=tuple(nodes), input=model.input, input_elements=given[model.input], top_code=model.top_code)


def _node(
    model: IntegerModel, step: Step, sources: tuple[str, ...], given: Mapping[str, int], counted: set[int]
) -> Node:
    part = model.get_submodule(step.path) if step.target == "module" else None
    taken = max((given.get(name, 0) for name in step.sources()), default=0)
    name, made = step.path or step.name, given[step.name]
    if isinstance(part, IntegerLayer):
        inner, channels = part.geometry.inner, part.geometry.out_channels
        held = part.codes.numel()
        macs = made * inner
        return Node(name=name, operation=step.operation, sources=sources, macs=macs, inner=inner, channels=channels,
                    weights=held, taken=taken, given=made, bound=part.bound)  # fmt: skip
    macs = made * _inner(part)
    own = [] if part is None else list(part.buffers())
    held = _bytes([*own, *(model.get_buffer(f"constant_{ref}") for ref in _constants(model, step))], counted)
    return Node(name=name, operation=step.operation, sources=sources, macs=macs, weights=held,
                reason=_reason(part), taken=taken, given=made, family=family(step.operation, part))  # fmt: skip


def _held(model: IntegerModel, step: Step) -> Iterator[Held]:
    """Yield the weights of a node: those of its layer, and constants that it reads."""
    part = model.get_submodule(step.path) if step.target == "module" else None
    if isinstance(part, IntegerLayer):
        yield Held(part.codes, part.weight_scale)
    elif isinstance(part, GroupedConvolution):
        yield Held(part.codes, part.scale.reshape(-1))
    for name in _constants(model, step):
        yield Held(model.get_buffer(f"constant_{name}").detach())


def _inner(part: nn.Module | None) -> int:
    if isinstance(part, GroupedConvolution):
        return part.geometry.inner
    return part.inner if isinstance(part, Product) else 0


def _reason(part: nn.Module | None) -> str:
    if isinstance(part, GroupedConvolution):
        return "grouped: a check costs as much as the product"
    if isinstance(part, Product):
        return "both operands are secret: there are no weights to prepare a check with"
    return "not a linear node"


def _constants(model: IntegerModel, step: Step) -> Iterator[str]:
    yield from (name for name in step.sources() if f"constant_{name}" in model._buffers)


def _bytes(tensors: Iterable[Tensor], counted: set[int]) -> int:
    """Return the bytes of tensors that were not counted before."""
    fresh = {value.data_ptr(): value.numel() * value.element_size() for value in tensors}
    result = sum(size for place, size in fresh.items() if place not in counted)
    counted.update(fresh)
    return result
