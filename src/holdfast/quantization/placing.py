"""Where a quantised model lives: parameters, buffers and the codes behind them, all on one device."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from holdfast.models import card

_Held = MutableMapping[str, Any]


def place(model: nn.Module, device: torch.device | str) -> None:
    """Move ``model`` to ``device``, and with it the stored codes of its parameters, which ``model.to`` leaves behind.

    Faults in a model whose codes stayed on the CPU are the same ones; each of them then visits the host. A move that
    fails, for want of memory for instance, is undone, and its error raised.
    """
    with _undone_on_error(model):
        model.to(device)
        for lens in card(model).lenses.values():
            lens.codes = lens.codes.to(device)
            lens.qparams.update({key: value.to(device) for key, value in lens.qparams.items()})


@contextmanager
def placed(model: nn.Module, device: torch.device | str) -> Iterator[None]:
    """Have ``model`` on ``device`` for the length of the block, and each part of it where it was afterwards."""
    own, stored = ([(held, key, held[key].device) for held, key in found] for found in (_own(model), _stored(model)))
    place(model, device)
    try:
        yield
    finally:
        with _undone_on_error(model):
            homes = {home for _, _, home in own}
            if len(homes) == 1:
                model.to(homes.pop())
            else:
                _return(own)
            _return(stored)


def _own(model: nn.Module) -> Iterator[tuple[_Held, str]]:
    """Yield what holds each parameter and buffer, and under which key."""
    for module in model.modules():
        for held in (module._parameters, module._buffers):
            yield from ((held, key) for key, item in held.items() if item is not None)


def _stored(model: nn.Module) -> Iterator[tuple[_Held, str]]:
    """Yield the same of codes and what belongs to them."""
    for lens in card(model).lenses.values():
        yield vars(lens), "codes"
        yield from ((lens.qparams, key) for key in lens.qparams)


def _return(homes: list[tuple[_Held, str, torch.device]]) -> None:
    for held, key, home in homes:
        item = held.get(key)
        if item is None:  # removed in the meantime
            continue
        if not isinstance(item, nn.Parameter):
            held[key] = item.to(home)
            continue
        item.data = item.data.to(home)
        if item.grad is not None:
            item.grad.data = item.grad.data.to(home)


@contextmanager
def _undone_on_error(model: nn.Module) -> Iterator[None]:
    """Put every tensor back, the very one from before, if the block fails: this needs no memory."""
    before = [(held, key, held[key]) for found in (_own(model), _stored(model)) for held, key in found]
    contents = [(item, item.data, item.grad) for _, _, item in before if isinstance(item, nn.Parameter)]
    grads = [(grad, grad.data) for _, _, grad in contents if grad is not None]
    try:
        yield
    except BaseException:
        for held, key, item in before:
            held[key] = item
        for parameter, data, _ in contents:
            parameter.data = data
        for grad, data in grads:
            grad.data = data
        raise
