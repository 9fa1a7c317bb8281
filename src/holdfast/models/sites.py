"""The exact population of a model: every place where bits live, counted once.

A place is found by running the model, not by listing its modules: what never computes is not a site.
"""

from __future__ import annotations

import difflib
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from holdfast.errors import InvalidConfig, NoSuchSite
from holdfast.models.card import card
from holdfast.models.site import KINDS, Site
from holdfast.models.tap import Watch
from holdfast.numerics import bits
from holdfast.numerics.formats import format_of_dtype

_TRACE_BATCH = 2


def sites(model: nn.Module, example: Tensor | None = None) -> tuple[Site, ...]:
    """Return all sites of ``model`` in a fixed order.

    Args:
        model: any module; a session that offloads layers adds its own ``offload`` sites.
        example: one input sample, shape (...) without batch; needed to find what flows. None lists stored sites only.
    """
    found = [*_parameters(model), *_buffers(model)]
    if example is not None:
        found += _flowing(model, example)
    if (offload := getattr(model, "offload_sites", None)) is not None:
        found += offload()
    return tuple(found)


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


def _float_site(kind: str, name: str, value: Tensor, shape: tuple[int, ...]) -> Site:
    return Site(kind, name, shape, format_of_dtype(value.dtype), bits.bit_width(value.dtype))


def _flowing(model: nn.Module, example: Tensor) -> list[Site]:
    batch = example.unsqueeze(0).repeat(_TRACE_BATCH, *[1] * example.dim())
    census = _Census(model, batch)
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), Watch(model, census.visit):
            output = model(batch)
    finally:
        model.train(training)
    ends = [_float_site("inputs", "input", batch, tuple(example.shape))]
    if isinstance(output, Tensor) and output.is_floating_point():
        ends.append(_float_site("outputs", "output", output, tuple(output.shape[1:])))
    return [*census.found, *ends]


class _Census:
    """Collects the places that write values: a new storage, or an old one at a new version."""

    def __init__(self, model: nn.Module, batch: Tensor) -> None:
        self.found: list[Site] = []
        self._seen: dict[int, int] = {}
        self._alive: list[Tensor] = []
        for tensor in (batch, *model.parameters(), *model.buffers()):
            self._wrote(tensor)

    def visit(self, name: str, output: Tensor) -> Tensor:
        if self._wrote(output) and output.dim() and output.shape[0] % _TRACE_BATCH == 0:
            rows = output.shape[0] // _TRACE_BATCH
            shape = tuple(output.shape[1:]) if rows == 1 else (rows, *output.shape[1:])
            self.found.append(_float_site("activations", name, output, shape))
        return output

    def _wrote(self, tensor: Tensor) -> bool:
        key, version = tensor.untyped_storage().data_ptr(), tensor._version
        changed = self._seen.get(key) != version
        self._seen[key] = version
        self._alive.append(tensor)  # a freed storage could come back at the same address
        return changed


def select(model: nn.Module, at: str = "weights", example: Tensor | None = None) -> tuple[Site, ...]:
    """Return the sites that ``at`` selects: comma-separated ``kind:glob``; a bare kind means all of it.

    ``**`` and ``*`` match anything within a name.

    Raises:
        NoSuchSite: a part matches nothing; the hint shows the nearest names.
        InvalidConfig: an unknown kind, or flowing sites asked for without an example input.
    """
    parts = [_parse(part) for part in at.split(",")]
    if example is None and any(kind in ("activations", "inputs", "outputs") for kind, _ in parts):
        raise InvalidConfig(f"finding {at!r} takes a forward pass", hint="pass example=, one input sample")
    known = sites(model, example)
    for kind, glob in parts:
        if not any(_matches(site, kind, glob) for site in known):
            raise _no_such(model, kind, glob, known)
    return tuple(site for site in known if any(_matches(site, kind, glob) for kind, glob in parts))


def _parse(part: str) -> tuple[str, str]:
    kind, _, glob = part.strip().partition(":")
    if kind not in KINDS:
        near = difflib.get_close_matches(kind, KINDS, n=1)
        raise InvalidConfig(f"unknown kind of site {kind!r}", hint=f"kinds: {', '.join(near or KINDS)}")
    return kind, glob or "**"


def _matches(site: Site, kind: str, glob: str) -> bool:
    return site.kind == kind and fnmatchcase(site.name, glob)


def _no_such(model: nn.Module, kind: str, glob: str, known: tuple[Site, ...]) -> NoSuchSite:
    names = [site.name for site in known if site.kind == kind]
    if kind == "activations" and glob in dict(model.named_modules()):
        return NoSuchSite(
            f"the module {glob} never computes an output of its own", hint="its parent calls it another way"
        )
    near = difflib.get_close_matches(glob, names, n=3, cutoff=0.3) or names[:3]
    return NoSuchSite(f"no site matches {kind}:{glob}", hint=f"nearest: {', '.join(near) or 'none of this kind'}")
