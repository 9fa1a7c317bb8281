"""Stored bits of a weight, buffer or quantisation parameter: the one place where memory faults touch a model."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from holdfast.errors import InvalidConfig, NoSuchSite
from holdfast.models.card import card
from holdfast.models.lens import Lens
from holdfast.models.site import Site
from holdfast.numerics import bits


@dataclass(frozen=True, slots=True)
class Stored:
    """The stored elements of one site: float bits in place, codes behind a lens, or what gives those codes meaning."""

    tensor: Tensor
    lens: Lens | None
    decodes: tuple[Lens, Tensor] | None = None  # the lens that reads the tensor, and the parameter it decodes into

    @property
    def codes(self) -> Tensor:
        """The integer codes, shaped like the tensor; float tensors are viewed as integers of their width."""
        return self.lens.codes if self.lens is not None else bits.int_view(self.tensor)

    def at(self, index: Tensor) -> Tensor:
        """Return the codes at flat int64 ``index``, shape (n,)."""
        return self.codes.take(index.to(self.codes.device))

    def xor_(self, index: Tensor, mask: Tensor) -> None:
        """XOR int64 ``mask`` into the elements at flat int64 ``index`` (each at most once); its own inverse."""
        index, mask = index.to(self.codes.device), mask.to(self.codes.device)
        if self.lens is not None:
            self.lens.xor_(self.tensor, index, mask)
        elif self.tensor.is_contiguous():
            bits.xor_(self.tensor.detach(), index, mask)
        else:  # channels-last weights, for example: flat positions stay those of the logical order
            codes = bits.int_view(self.tensor)
            codes.put_(index, codes.take(index) ^ bits.narrow(mask, codes.dtype))
        if self.decodes is not None and index.numel():  # a scale gives meaning to many codes
            lens, parameter = self.decodes
            lens.write(parameter)


def stored(model: nn.Module, site: Site) -> Stored:
    """Return the stored bits of a ``weights``, ``buffers`` or ``qparams`` site.

    Raises:
        NoSuchSite: the site is of another kind, or not in this model.
        InvalidConfig: elements of it share memory, as after ``expand``, so that a flip in one would be one in others.
    """
    try:
        if site.kind == "weights":
            return Stored(_own(site, model.get_parameter(site.name)), card(model).lenses.get(site.name))
        if site.kind == "buffers":
            return Stored(_own(site, model.get_buffer(site.name)), None)
        if site.kind == "qparams":
            name, _, key = site.name.rpartition("/")
            lens = card(model).lenses[name]
            return Stored(lens.stored_qparams()[key], None, (lens, model.get_parameter(name)))
    except (AttributeError, KeyError):
        raise NoSuchSite(f"the model has no {site.address}") from None
    raise NoSuchSite(f"{site.address} is computed, not stored", hint="tap it instead")


def _own(site: Site, tensor: Tensor) -> Tensor:
    if any(stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True)):
        raise InvalidConfig(f"elements of {site.address} share memory", hint="give each its own: tensor.contiguous()")
    return tensor
