"""What can be put under test: a plain module whose parts can be seen, and the mode it is tested in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from holdfast.errors import InvalidConfig

_PLAIN = (Tensor, nn.Parameter)  # what is derived from them may keep values of its own behind any device


def require_module(model: object) -> None:
    """Refuse what is no module.

    Raises:
        InvalidConfig: something else, or a class instead of a module of it.
    """
    if isinstance(model, type) and issubclass(model, nn.Module):
        raise InvalidConfig(
            f"{model.__name__} is a class of modules, not a module", hint=f"call it: {model.__name__}()"
        )
    if not isinstance(model, nn.Module):
        raise InvalidConfig(f"a model is a torch.nn.Module, not {type(model).__name__}")


def require_open(model: nn.Module) -> None:
    """Refuse a module whose stored values cannot be reached one by one.

    Raises:
        InvalidConfig: no module, a script, a part that is one and stores something, or tensors without values.
    """
    require_module(model)
    if any(script is model or _stores(script) for script in _scripts(model)):
        raise _closed()
    require_values(model)


def require_unscripted(model: nn.Module) -> None:
    """Refuse a module that is a script, or has a part that is one, where all of its parts are to be hooked.

    Raises:
        InvalidConfig: it does.
    """
    if any(True for _ in _scripts(model)):
        raise _closed()


def _scripts(model: nn.Module) -> Iterator[nn.Module]:
    return (module for module in model.modules() if isinstance(module, torch.jit.ScriptModule))


def _stores(module: nn.Module) -> bool:
    return any(True for held in (module.parameters(), module.buffers()) for _ in held)


def _closed() -> InvalidConfig:
    return InvalidConfig(
        "TorchScript does not let its parts be reached", hint="give the nn.Module that it was made from"
    )


def require_values(model: nn.Module) -> None:
    """Refuse tensors of the device meta.

    Raises:
        InvalidConfig: there is one; the first is named.
    """
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        if value.is_meta and type(value) in _PLAIN:
            hint = "give it weights: model.to_empty(device='cpu'), then load_state_dict"
            raise InvalidConfig(f"{name} is on the device meta, where tensors have no values", hint=hint)


def require_eager(model: nn.Module) -> None:
    """Refuse a compiled module where what flows through it is to be seen.

    Raises:
        InvalidConfig: it was compiled, or made a script, whole or in part.
    """
    require_unscripted(model)
    for module in model.modules():
        if type(module).__name__ == "OptimizedModule" or getattr(module, "_compiled_call_impl", None) is not None:
            raise InvalidConfig(
                "a compiled model fuses what flows through it, so that no single value can be reached",
                hint="give the model as it was before torch.compile, for example model._orig_mod",
            )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put ``model`` into evaluation mode for the length of the block, and every module back afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
