"""SimpleNet as Stutz et al. (MLSys 2021) use it: 13 convolutions with norm and ReLU, max pooling, one linear layer."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from holdfast.errors import InvalidConfig
from holdfast.models.card import card
from holdfast.models.catalogue import architectures


def _group_norm(channels: int) -> nn.Module:
    """Return group norm with the first of 32, 24, 16, 8 groups (capped at half the channels) that divides them."""
    groups = next((g for g in (min(k, channels // 2) for k in (32, 24, 16, 8)) if g and channels % g == 0), 1)
    return nn.GroupNorm(groups, channels)


_NORMS: dict[str, Callable[[int], nn.Module]] = {
    "gn": _group_norm,
    "bn": nn.BatchNorm2d,
    "none": lambda _: nn.Identity(),
}


def _block(taken: int, given: int, kernel: int, norm: str) -> list[nn.Module]:
    return [nn.Conv2d(taken, given, kernel, padding=kernel // 2), _NORMS[norm](given), nn.ReLU()]


def _plan(c: int, size: int) -> list[tuple[str, int, int]]:
    """Return (operation, channels, kernel) in order; 32x32 inputs have one stage more than smaller ones."""
    convs = [c, 2 * c, 2 * c, 2 * c, 0, 2 * c, 2 * c, 4 * c, 0]
    convs += [4 * c, 4 * c, 0, 8 * c, 0] if size >= 32 else [8 * c, 0]
    plan = [("conv", width, 3) if width else ("pool", 0, 0) for width in convs]
    return [*plan, ("conv", 32 * c, 1), ("conv", 4 * c, 1), ("pool", 0, 0), ("conv", 4 * c, 3)]


@architectures.register("simplenet")
def simplenet(
    classes: int = 10, channels: int = 64, channels_in: int = 3, size: int = 32, norm: str = "gn"
) -> nn.Module:
    """Build SimpleNet; ``channels=64`` on 32x32 colour images gives the paper's 5.5 million weights.

    Raises:
        InvalidConfig: ``norm`` is not gn, bn or none.
    """
    if norm not in _NORMS:
        raise InvalidConfig(f"simplenet has no norm {norm!r}", hint=f"choose one of {', '.join(_NORMS)}")
    layers: list[nn.Module] = []
    width = channels_in
    for operation, given, kernel in _plan(channels, size):
        if operation == "pool":
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
        else:
            layers += _block(width, given, kernel, norm)
            width = given
    model = nn.Sequential(*layers, nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(width, classes))
    card(model).input_shape = (channels_in, size, size)
    return model
