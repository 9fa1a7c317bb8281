"""What flows through a model, found by running it: which places write values, and where samples lie in them."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from holdfast.errors import UsageError
from holdfast.models.cache import cached_tensors
from holdfast.models.guard import without_guards
from holdfast.models.guard_kinds import AnyGuard, WholeModelGuard
from holdfast.models.internals import Unfused
from holdfast.models.memory import is_out_of_memory
from holdfast.models.misfit import REFUSALS, misfit
from holdfast.models.outputs import logits_of
from holdfast.models.site import Site
from holdfast.models.subject import evaluating, require_eager
from holdfast.models.tap import Watch, ends
from holdfast.numerics import bits
from holdfast.numerics.formats import format_of_dtype

Run = Callable[[nn.Module, Tensor], object]  # computes the model on a batch
Place = tuple[str, str]  # kind and name
_TRACE_BATCHES = (2, 3)


def stored_format(dtype: torch.dtype) -> str:
    """Return what a site calls the elements of a stored tensor: a number format, or else the integer type."""
    return format_of_dtype(dtype) if dtype.is_floating_point else str(dtype).removeprefix("torch.")


def float_site(kind: str, name: str, value: Tensor, shape: tuple[int, ...], outer: int = 1) -> Site:
    """Return the site of a tensor whose samples have ``shape`` and lie in ``outer`` pieces each."""
    return Site(kind, name, shape, stored_format(value.dtype), bits.bit_width(value.dtype), outer)


@dataclass(frozen=True, slots=True)
class Flowing:
    """What flows through a model.

    Attributes:
        sites: places that write values, in order of computation.
        twins: which steps of fused operators are the activation that the operator returns.
        left_out: names of places whose samples lie along another dimension than the first; no fault can be put there.
    """

    sites: list[Site]
    twins: dict[Site, Site]
    left_out: list[str]


def flowing(model: nn.Module, example: Tensor, internals: bool, run: Run | None) -> Flowing:
    """Return the places that write values.

    Raises:
        InvalidConfig: the model is compiled, or does not take the example.
    """
    require_eager(model)
    try:
        few, more, layouts = _seen(model, example, internals, run)
    except REFUSALS as error:
        if isinstance(error, UsageError) or is_out_of_memory(error):
            raise
        raise misfit(model, example, error) from error
    return _whole_samples(few, more, layouts)


def pieces_of_guards(model: nn.Module, example: Tensor, guards: Sequence[AnyGuard]) -> tuple[int | None, ...]:
    """Return in how many pieces a sample lies in what each guard sees; None where it cannot be told what is whose."""
    places = pieces(model, example) if guards else {}
    return tuple(1 if isinstance(guard, WholeModelGuard) else places.get(guard.site) for guard in guards)


def pieces(model: nn.Module, example: Tensor) -> dict[str, int]:
    """Return in how many pieces a sample lies in the output of each place, counted as a site or not.

    A place whose first dimension does not follow the batch is left out.
    """
    few, more, layouts = _seen(model, example, False, None)
    shapes = {place: _sample_shape(flow.tensor, more[place].tensor) for place, flow in few.items() if place in more}
    kept = (place for place, shape in shapes.items() if place[0] == "activations" and shape is not None)
    return {name: layouts.get((kind, name), 1) for kind, name in kept}


_Flows = dict[Place, "_Flow"]


def _seen(
    model: nn.Module, example: Tensor, internals: bool, run: Run | None
) -> tuple[_Flows, _Flows, dict[Place, int]]:
    """Return what flows for a small and for a larger batch, and the pieces of a sample where several rows are one."""
    # two sizes of batch, because a first dimension that does not follow the batch holds no samples
    with evaluating(model), torch.inference_mode(False), torch.no_grad(), without_guards(model):
        alike = [example.unsqueeze(0).repeat(size, *[1] * example.dim()) for size in _TRACE_BATCHES]
        few, more = (_census(model, batch, internals, run) for batch in alike)
        folded = {place for place, flow in few.items() if place in more and _is_folded(flow.tensor, more[place].tensor)}
        if not folded:
            return few, more, {}
        mixed = torch.stack([example, _another(example)])
        one, two = (_census(model, batch, internals, run, folded) for batch in (alike[0], mixed))
    known = folded & one.keys() & two.keys()
    return few, more, {place: _pieces(one[place].tensor, two[place].tensor) for place in known}


def _another(example: Tensor) -> Tensor:
    """Return a sample that a model which takes ``example`` takes as well, with other values."""
    if example.is_floating_point():
        noise = torch.randn(
            example.shape, generator=torch.Generator("cpu").manual_seed(0), dtype=torch.float64, device="cpu"
        )
        return example * 0.75 + noise.to(example) * 0.5
    rolled = example.roll(1)
    return (example == 0).to(example.dtype) if torch.equal(rolled, example) else rolled


def _is_folded(few: Tensor, more: Tensor) -> bool:
    """Say whether the first dimension counts several rows of every sample."""
    return _sample_shape(few, more) is not None and few.shape[0] > _TRACE_BATCHES[0]


def _pieces(alike: Tensor, mixed: Tensor) -> int:
    """Return in how many pieces a sample lies, from where a batch of two changes when its second sample does.

    (batch * tokens, ...) has one piece, (tokens * batch, ...) as many as there are tokens. A model whose samples
    depend on each other has rows that change in both; nothing is known of where they lie, and one piece is assumed.
    """
    if alike.shape != mixed.shape:
        return 1
    differs = bits.int_view(alike.contiguous()) != bits.int_view(mixed.contiguous())
    changed = differs.reshape(len(alike), -1).any(1).nonzero().flatten()
    rows = len(alike) // 2
    found = (
        rows // inner for inner in range(rows, 0, -1) if rows % inner == 0 and bool((changed // inner % 2 == 1).all())
    )
    return next(found, 1)


def _census(model: nn.Module, batch: Tensor, internals: bool, run: Run | None, copied: Container[Place] = ()) -> _Flows:
    """Return what flows when ``batch`` runs, by kind and name, in order of computation; values stay of the copied."""
    found: _Flows = {}
    steps: _Flows = {}
    kept: _Flows = {}

    def note(flows: _Flows, kind: str, name: str, value: Tensor) -> Tensor:
        flows[kind, name] = _Flow(value.clone() if (kind, name) in copied else value, _state(value))
        return value

    visit, visit_step = partial(note, found, "activations"), partial(note, steps, "internals")

    def begin(_: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        for earlier in (found, steps, kept):
            earlier.clear()
        cached = cached_tensors((*args, *kwargs.values()))
        kept.update({("cache", name): _Flow(value, None) for name, value in cached.items()})

    handle = model.register_forward_pre_hook(begin, with_kwargs=True)
    try:
        with Unfused(model, visit_step) if internals else nullcontext(), Watch(model, visit):
            output = model(batch) if run is None else run(model, batch)
    finally:
        handle.remove()
    first, last = ends(model)
    result = {**found, **kept}
    if batch.is_floating_point():  # tokens are no numbers
        result = {("inputs", first): _Flow(batch, _state(batch)), **result}
    output = logits_of(output)
    if isinstance(output, Tensor) and output.is_floating_point():
        result["outputs", last] = _Flow(output, None)
    result |= steps  # last: what an operator returns is its activation, whichever step of it wrote that
    for tensor in (*model.parameters(), *model.buffers()):
        result["stored", str(len(result))] = _Flow(tensor, _state(tensor))
    return result


@dataclass(frozen=True, slots=True)
class _Flow:
    """A tensor as it was when it was seen; holding it keeps its storage from being used again."""

    tensor: Tensor
    state: tuple[int, int] | None  # which storage, at which version; None where no place but this one can count it


def _state(tensor: Tensor) -> tuple[int, int]:
    return tensor.untyped_storage().data_ptr(), 0 if tensor.is_inference() else tensor._version


def _whole_samples(few: _Flows, more: _Flows, layouts: Mapping[Place, int]) -> Flowing:
    """Return the places that write values: a storage, or a version of it, that no place before them holds.

    Also returns which steps of fused operators write what an activation counts already. A tensor not made of samples,
    such as attention's (tokens, batch, dim), is counted at its first view that is.
    """
    counted = {flow.state for (kind, _), flow in few.items() if kind == "stored"}
    writers: dict[tuple[int, int] | None, Site] = {}
    result, twins = [], {}
    for (kind, name), flow in few.items():
        twin = writers.get(flow.state) if kind == "internals" and flow.state is not None else None
        if kind == "stored" or (flow.state in counted and flow.state and not twin) or (kind, name) not in more:
            continue
        shape = _sample_shape(flow.tensor, more[kind, name].tensor)
        if shape is not None:
            counted.add(flow.state)
            result.append(float_site(kind, name, flow.tensor, shape, layouts.get((kind, name), 1)))
            if twin is not None:
                twins[result[-1]] = twin
            writers.setdefault(flow.state, result[-1])
    stored = (flow for (kind, _), flow in few.items() if kind == "stored")
    seen = {flow.state: flow.tensor.untyped_storage().nbytes() for flow in stored}
    for site in result:
        flow = few[site.kind, site.name]
        seen[flow.state] = max(flow.tensor.nbytes, seen.get(flow.state, 0))
    return Flowing(result, twins, _left_out(few, more, seen))


def _left_out(few: _Flows, more: _Flows, seen: Mapping[tuple[int, int] | None, int]) -> list[str]:
    """Return the places that hold samples, but along another dimension than the first, so that none of them is a site.

    ``seen`` says how many bytes of each state of a storage are one: a view of the last token is not all tokens.
    """
    return [
        name
        for (kind, name), flow in few.items()
        if kind == "activations" and flow.tensor.nbytes > seen.get(flow.state, 0) and (kind, name) in more
        if _follows_elsewhere(tuple(flow.tensor.shape), tuple(more[kind, name].tensor.shape))
    ]


def _follows_elsewhere(few: tuple[int, ...], more: tuple[int, ...]) -> bool:
    small, large = _TRACE_BATCHES
    if len(few) != len(more):
        return False
    unlike = [place for place, (a, b) in enumerate(zip(few, more, strict=True)) if a != b]
    return len(unlike) == 1 and unlike[0] > 0 and few[unlike[0]] * large == more[unlike[0]] * small


def _sample_shape(few: Tensor, more: Tensor) -> tuple[int, ...] | None:
    """Return the shape of one sample, or None when the first dimension does not follow the batch."""
    small, large = _TRACE_BATCHES
    if not few.dim() or few.shape[1:] != more.shape[1:] or few.shape[0] % small or few.stride(0) == 0:
        return None
    if few.shape[0] * large != more.shape[0] * small:
        return None
    rows = few.shape[0] // small
    return tuple(few.shape[1:]) if rows == 1 else (rows, *few.shape[1:])
