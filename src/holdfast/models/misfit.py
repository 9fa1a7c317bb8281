"""Why a model does not take a sample, in one sentence."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from holdfast.errors import InvalidConfig
from holdfast.models.card import card
from holdfast.models.subject import require_open

REFUSALS = (
    RuntimeError,
    ValueError,
    IndexError,
    TypeError,
)  # what a forward raises over an input that it does not take
_REASON = 200  # characters of torch's own words


def misfit(model: nn.Module, sample: Tensor, error: BaseException | str) -> InvalidConfig:
    """Return the refusal of ``sample``, one input without batch, over which the model raised ``error``."""
    try:
        require_open(model)
    except InvalidConfig as refusal:
        return refusal
    if sample.is_floating_point() and (own := _computes_in(model)) not in (None, sample.dtype):
        return _other_dtype(sample, str(own).removeprefix("torch."))
    reason = error if isinstance(error, str) else _first_line(error)
    if isinstance(error, TypeError):
        what, hint = "a model is called with one batch, and nothing else", "wrap it in a module whose forward does that"
        return InvalidConfig(f"{what} ({reason})", hint=hint)
    known = card(model).input_shape
    tokens = known is not None and len(known) == 1
    hint = "a language model reads text: wikitext2:ROOT" if tokens else "take data of the size the model was made for"
    return InvalidConfig(
        f"the model does not take what the data holds: samples are {sized(sample.shape)} ({reason})", hint=hint
    )


def sized(shape: tuple[int, ...]) -> str:
    """Return the shape of a sample in words."""
    return f"{shape[0]} tokens" if len(shape) == 1 else "x".join(map(str, shape))


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:_REASON]


def _computes_in(model: nn.Module) -> torch.dtype | None:
    return next((item.dtype for item in model.parameters() if item.is_floating_point()), None)


def _other_dtype(sample: Tensor, own: str) -> InvalidConfig:
    theirs = str(sample.dtype).removeprefix("torch.")
    return InvalidConfig(
        f"the model computes in {own}, and the samples are {theirs}",
        hint=f"call model.float(), or model.register_forward_pre_hook(lambda _, x: (x[0].to(torch.{own}),))",
    )
