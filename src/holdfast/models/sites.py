"""The exact population of a model: every place where bits live, counted once.

A place is found by running the model, not by listing its modules: what never computes is not a site.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Container, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from holdfast.errors import InvalidConfig, NoSuchSite
from holdfast.models.cache import cached_tensors
from holdfast.models.card import card
from holdfast.models.guard import without_guards
from holdfast.models.internals import Unfused
from holdfast.models.outputs import logits_of
from holdfast.models.site import KINDS, Site
from holdfast.models.tap import Watch, ends
from holdfast.numerics import bits
from holdfast.numerics.formats import format_of_dtype

Run = Callable[[nn.Module, Tensor], object]  # computes the model on a batch

TRACED = ("activations", "inputs", "outputs", "internals")  # kinds that are found by running the model
_ELSEWHERE = {
    "cache": "holdfast.execution.inject_generation",
    "gradients": "holdfast.execution.inject_training",
    "moments": "holdfast.execution.inject_training",
}
_TRACE_BATCHES = (2, 3)


def sites(
    model: nn.Module, example: Tensor | None = None, *, internals: bool = False, run: Run | None = None
) -> tuple[Site, ...]:
    """Return all sites of ``model`` in a fixed order.

    Args:
        model: any module; a session that offloads layers adds its own ``offload`` sites.
        example: one input sample, shape (...) without batch; needed to find what flows. None lists stored sites only.
        internals: also list the steps of fused operators, which are then computed step by step.
        run: what one computation is, where it is not ``model(batch)``. Of several forward passes, such as those that
            make a text, the last one counts, and the cache it starts from.
    """
    found, twins = _known(model, example, internals, run)
    return tuple(site for site in found if site not in twins)


def _known(
    model: nn.Module, example: Tensor | None, internals: bool, run: Run | None
) -> tuple[list[Site], dict[Site, Site]]:
    """Return all sites, and which steps of operators are the activation that the operator returns."""
    found, twins = [*_parameters(model), *_buffers(model), *_qparams(model)], dict[Site, Site]()
    if example is not None:
        flowing, twins = _flowing(model, example, internals, run)
        found += flowing
    if (offload := getattr(model, "offload_sites", None)) is not None:
        found += offload()
    return found, twins


def _parameters(model: nn.Module) -> list[Site]:
    lenses = card(model).lenses
    return [
        Site("weights", name, tuple(value.shape), lenses[name].format.name, lenses[name].format.bits)
        if name in lenses
        else _float_site("weights", name, value, tuple(value.shape))
        for name, value in model.named_parameters()
    ]


def _buffers(model: nn.Module) -> list[Site]:
    floats = ((name, value) for name, value in model.named_buffers() if value.is_floating_point())
    return [_float_site("buffers", name, value, tuple(value.shape)) for name, value in floats]


def _qparams(model: nn.Module) -> list[Site]:
    """Return the scales, offsets and zero points beside stored codes, as ``qparams:PARAMETER/KEY``."""
    return [
        Site("qparams", f"{name}/{key}", tuple(value.shape), stored_format(value.dtype), bits.bit_width(value.dtype))
        for name, _ in model.named_parameters()
        if (lens := card(model).lenses.get(name)) is not None
        for key, value in lens.stored_qparams().items()
    ]


def stored_format(dtype: torch.dtype) -> str:
    """Return what a site calls the elements of a stored tensor: a number format, or else the integer type."""
    return format_of_dtype(dtype) if dtype.is_floating_point else str(dtype).removeprefix("torch.")


def _float_site(kind: str, name: str, value: Tensor, shape: tuple[int, ...]) -> Site:
    return Site(kind, name, shape, stored_format(value.dtype), bits.bit_width(value.dtype))


def _flowing(
    model: nn.Module, example: Tensor, internals: bool, run: Run | None
) -> tuple[list[Site], dict[Site, Site]]:
    training = model.training
    model.eval()
    try:
        # two sizes of batch, because a first dimension that does not follow the batch holds no samples
        with torch.inference_mode(False), torch.no_grad(), without_guards(model):
            few, more = (_census(model, example, size, internals, run) for size in _TRACE_BATCHES)
    finally:
        model.train(training)
    return _whole_samples(few, more)


def _census(
    model: nn.Module, example: Tensor, size: int, internals: bool, run: Run | None
) -> dict[tuple[str, str], _Flow]:
    """Return what flows when a batch of ``size`` samples runs, by kind and name, in order of computation."""
    batch = example.unsqueeze(0).repeat(size, *[1] * example.dim())
    found: dict[tuple[str, str], _Flow] = {}

    def visit(name: str, value: Tensor) -> Tensor:
        found["activations", name] = _Flow(value, _state(value))
        return value

    steps: dict[tuple[str, str], _Flow] = {}

    def visit_step(name: str, value: Tensor) -> Tensor:
        steps["internals", name] = _Flow(value, _state(value))
        return value

    kept: dict[tuple[str, str], _Flow] = {}

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


def _whole_samples(
    few: dict[tuple[str, str], _Flow], more: dict[tuple[str, str], _Flow]
) -> tuple[list[Site], dict[Site, Site]]:
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
            result.append(_float_site(kind, name, flow.tensor, shape))
            if twin is not None:
                twins[result[-1]] = twin
            writers.setdefault(flow.state, result[-1])
    return result, twins


def _sample_shape(few: Tensor, more: Tensor) -> tuple[int, ...] | None:
    """Return the shape of one sample, or None when the first dimension does not follow the batch."""
    small, large = _TRACE_BATCHES
    if not few.dim() or few.shape[1:] != more.shape[1:] or few.shape[0] % small or few.stride(0) == 0:
        return None
    if few.shape[0] * large != more.shape[0] * small:
        return None
    rows = few.shape[0] // small
    return tuple(few.shape[1:]) if rows == 1 else (rows, *few.shape[1:])


def select(
    model: nn.Module, at: str = "weights", example: Tensor | None = None, *, run: Run | None = None
) -> tuple[Site, ...]:
    """Return the sites that ``at`` selects: comma-separated ``kind:glob``; a bare kind means all of it.

    ``**`` and ``*`` match anything within a name; ``run`` is as in :func:`sites`.

    Raises:
        NoSuchSite: a part matches nothing; the hint shows the nearest names.
        InvalidConfig: an unknown kind, or flowing sites asked for without an example input.
    """
    parts = [_parse(part) for part in at.split(",")]
    if example is None and any(kind in TRACED for kind, _ in parts):
        raise InvalidConfig(f"finding {at!r} takes a forward pass", hint="pass example=, one input sample")
    if special := [kind for kind, _ in parts if kind in _ELSEWHERE and not (kind == "cache" and run)]:
        raise InvalidConfig(f"a forward pass of one input has no {special[0]}", hint=_ELSEWHERE[special[0]])
    known, twins = _known(model, example, any(kind == "internals" for kind, _ in parts), run)
    found = chosen(known, at, dict(model.named_modules()))
    return tuple(site for site in found if twins.get(site) not in found)  # no bit twice


def chosen(known: Sequence[Site], at: str, modules: Container[str] = ()) -> tuple[Site, ...]:
    """Return the sites among ``known`` that ``at`` selects, in their order; ``modules`` only sharpens the message.

    Raises:
        NoSuchSite: a part matches nothing; the hint shows the nearest names.
        InvalidConfig: an unknown kind.
    """
    parts = [_parse(part) for part in at.split(",")]
    for kind, glob in parts:
        if not any(_matches(site, kind, glob) for site in known):
            raise _no_such(modules, kind, glob, known)
    return tuple(site for site in known if any(_matches(site, kind, glob) for kind, glob in parts))


def _parse(part: str) -> tuple[str, str]:
    kind, _, glob = part.strip().partition(":")
    if kind not in KINDS:
        near = difflib.get_close_matches(kind, KINDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"kinds: {', '.join(KINDS)}"
        raise InvalidConfig(f"unknown kind of site {kind!r}", hint=hint)
    return kind, glob or "**"


def _matches(site: Site, kind: str, glob: str) -> bool:
    return site.kind == kind and fnmatchcase(site.name, glob)


def _no_such(modules: Container[str], kind: str, glob: str, known: Sequence[Site]) -> NoSuchSite:
    names = [site.name for site in known if site.kind == kind]
    if kind == "activations" and glob in modules:
        return NoSuchSite(
            f"the module {glob} never computes an output of its own", hint="its parent calls it another way"
        )
    near = difflib.get_close_matches(glob, names, n=3, cutoff=0.3) or names[:3]
    return NoSuchSite(f"no site matches {kind}:{glob}", hint=f"nearest: {', '.join(near) or 'none of this kind'}")
