"""A model is built no larger for a file than its tensors fill: a line of text can ask for any amount of memory."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from holdfast.errors import UnreadableArtifact

_ELEMENTS_PER_BYTE = 64  # of a parameter; codes of a bit have eight, and some modules register a parameter anew
_TIMES, _SPARE = 4, 64  # parameters that may be registered for each tensor, and besides


@contextmanager
def no_larger_than(tensors: Mapping[str, Tensor], what: str) -> Iterator[None]:
    """Refuse the modules that this thread builds within the block once they cannot be those of ``tensors`` any more.

    Args:
        tensors: of the file.
        what: names the file that says what to build.

    Raises:
        UnreadableArtifact: there are too many parameters, or too large ones, before they are given values.
    """
    size = sum(item.numel() * item.element_size() for item in tensors.values())
    left = {"parameters": _TIMES * len(tensors) + _SPARE, "elements": _ELEMENTS_PER_BYTE * size + _SPARE}
    thread = threading.get_ident()

    def count(module: nn.Module, name: str, parameter: Tensor | None) -> None:
        if threading.get_ident() != thread or parameter is None:
            return
        left["parameters"] -= 1
        left["elements"] -= parameter.numel()
        if min(left.values()) < 0:
            raise _too_large(what)

    handle = register_module_parameter_registration_hook(count)
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if "memory" not in str(error) and not isinstance(error, MemoryError):
            raise
        raise _too_large(what) from error
    finally:
        handle.remove()


def _too_large(what: str) -> UnreadableArtifact:
    return UnreadableArtifact(
        f"{what} describes a larger model than the tensors beside it", hint="was it edited, or is a file missing?"
    )
