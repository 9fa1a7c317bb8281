"""What can be data here."""

from __future__ import annotations

from holdfast.data.dataset import Dataset
from holdfast.data.text import Text
from holdfast.errors import InvalidConfig


def require_data(data: object) -> None:
    """Refuse what is neither a :class:`Dataset` nor a :class:`Text`.

    Raises:
        InvalidConfig: something else, such as a loader of torch; the hint says how it becomes one.
    """
    if isinstance(data, Dataset | Text):
        return
    hint = "from holdfast.data import Dataset: Dataset('mine', images, labels, classes) holds tensors"
    if isinstance(data, str):
        hint = f"holdfast.dataset({data!r}) reads it"
    raise InvalidConfig(f"data is a Dataset or a Text of holdfast.data, not {type(data).__name__}", hint=hint)


def require_images(data: object) -> None:
    """Refuse what is no :class:`Dataset`, a text too.

    Raises:
        InvalidConfig: something else.
    """
    require_data(data)
    if isinstance(data, Text):
        hint = "holdfast.campaign, language_robustness and execution.perplexity read texts"
        raise InvalidConfig(f"{data.name} is a text, and images with labels are needed", hint=hint)
