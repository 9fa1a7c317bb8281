"""Where channels and tokens lie in an output."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from holdfast.errors import InvalidConfig

Per = Literal["tensor", "channel", "token", "element"]
_CHANNELS_FIRST = (
    nn.modules.conv._ConvNd,
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
)
_CHANNELS_LAST = (nn.Linear, nn.LayerNorm, nn.Embedding)
_SEQUENCE, _IMAGE, _VOLUME = 3, 4, 5


def varying_dim(site: str, module: nn.Module | None, shape: tuple[int, ...], per: Per) -> int | str | None:
    """Return the dimension of an output of ``shape`` (batch, ...) along which bounds differ; None where none does.

    A vector per sample is one token, so its tokens have one range.

    Raises:
        InvalidConfig: the output has no such parts.
    """
    if per == "tensor" or len(shape) < 2 or (per == "token" and len(shape) == 2):
        return None
    if per == "element":
        return "element"
    if per == "channel":
        return channel_dim(module, shape)
    if len(shape) != _SEQUENCE:
        raise InvalidConfig(
            f"{site} gives {shape}, which has no one dimension of tokens", hint="take per=channel or per=tensor there"
        )
    return 1


def channel_dim(module: nn.Module | None, shape: tuple[int, ...]) -> int:
    """Return the channel dimension: what the module says; else the last of a sequence or of image partitions.

    A functional output of four dimensions is taken for an image with channels last when its two middle sizes are equal
    and its two last ones are not.
    """
    if isinstance(module, _CHANNELS_LAST):
        return -1
    if isinstance(module, _CHANNELS_FIRST) or len(shape) == 2:
        return 1
    if len(shape) == _IMAGE:
        return -1 if shape[1] == shape[2] != shape[3] else 1
    return 1 if len(shape) == _VOLUME else -1


def require_parts(site: str, output: Tensor, dim: int | str | None) -> Tensor:
    """Return ``output`` (batch, ...) as (batch, parts, values of a part).

    Raises:
        InvalidConfig: a site that computed nothing.
    """
    if output.numel() == 0:
        raise InvalidConfig(f"{site} gives no values on clean data")
    batch = output.shape[0] if output.dim() else 1
    if dim is None:
        return output.reshape(batch, 1, -1)
    if dim == "element":
        return output.reshape(batch, -1, 1)
    moved = output.movedim(int(dim), 1)
    return moved.reshape(batch, moved.shape[1], -1)
