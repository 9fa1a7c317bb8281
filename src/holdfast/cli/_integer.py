"""Integer models on the command line: read from a folder, or exported from what a user names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.cli._campaign_trials import evaluation_text
from holdfast.errors import InvalidConfig, UsageError

if TYPE_CHECKING:
    from torch import nn

    from holdfast.data import Dataset, Text
    from holdfast.shielding.graph import IntegerModel

SAMPLES, TOP_CODE = 128, 127


def named_model(name: str, arch: str | None, seed: int) -> nn.Module:
    """Load what is on disk, or build an architecture with weights from ``seed``."""
    from holdfast.models import build_architecture, load

    return load(name, arch=arch) if Path(name).exists() else build_architecture(name, seed=seed).eval()


def integer_of(
    net: nn.Module, *, data: str | None, samples: int | None, top_code: int | None, beside: str
) -> IntegerModel:
    """Return ``net`` if it is an integer model, else its export with ranges from ``data``.

    Args:
        net: a model.
        data: specification of training data; for a text, a tokenizer that lies in ``beside`` reads it.
        samples: of the data, 128 by default.
        top_code: of linear nodes, 127 by default.
        beside: what the user called the model.

    Raises:
        UsageError: data or a top code for a model that is exported already, or none for one that is not.
        InvalidConfig: the model cannot be exported.
    """
    from holdfast.shielding.graph import IntegerModel

    if isinstance(net, IntegerModel):
        given = {"--data": data, "--samples": samples, "--top-code": top_code}
        if named := [name for name, value in given.items() if value is not None]:
            raise UsageError(f"{beside} is exported already and has its ranges", hint=f"leave out {', '.join(named)}")
        return net
    if data is None:
        hint = "give --data, the training data for its ranges, or export it first: holdfast shield export"
        raise UsageError(f"{beside} is no integer model yet", hint=hint)
    train = calibration(data, samples, beside)
    return exported(net, train, top_code=top_code)


def calibration(data: str, samples: int | None, beside: str) -> Dataset | Text:
    """Return training data for the ranges of activations: so many images, or a whole text."""
    from holdfast.data import dataset, is_text

    if is_text(data):
        return evaluation_text(data, Path(beside))
    return dataset(data, split="train").take(SAMPLES if samples is None else samples)


def exported(
    net: nn.Module, train: Dataset | Text, *, top_code: int | None, tokens: int | None = None, windows: int = SAMPLES
) -> IntegerModel:
    """Export ``net`` with ranges from ``train``; ``tokens`` is the length of a text, ``windows`` how many are read.

    Raises:
        InvalidConfig: no length for a text, or the model cannot be exported.
    """
    import torch

    from holdfast.data import Dataset
    from holdfast.execution.fit import require_fit
    from holdfast.models import card
    from holdfast.shielding.graph import export

    top = TOP_CODE if top_code is None else top_code
    if isinstance(train, Dataset):
        require_fit(net, train)
        first, _ = train.batch(torch.tensor([0]))
        return export(net, first, train, top_code=top)
    known = card(net).input_shape
    length = tokens or (known[0] if known is not None and len(known) == 1 else None)
    if length is None:
        raise InvalidConfig("how long are the texts this model will read?", hint="give --example, such as 64 tokens")
    train = train.take(windows * (length - 1))
    return export(net, train.windows(length, 1), train, top_code=top)
