"""Datasets by name."""

from __future__ import annotations

import inspect
import re

from holdfast._registry import Registry, coerce, parse_spec
from holdfast.data.dataset import Dataset
from holdfast.errors import InvalidConfig

datasets: Registry[Dataset] = Registry("dataset", "holdfast.datasets")

_OPTIONS = r"[A-Za-z][\w-]*=[^,]*(?:,[A-Za-z][\w-]*=[^,]*)*"
_TAIL = re.compile(rf"(?:(?P<alone>{_OPTIONS})|(?P<root>.+?)(?:,(?P<options>{_OPTIONS}))?)", re.DOTALL)


def dataset(spec: str, *, split: str = "test", **options: object) -> Dataset:
    """Return a dataset.

    Args:
        spec: ``digits``, ``cifar10:ROOT``, ``cifar100:ROOT``, ``mnist:ROOT``, ``folder:PATH``, ``synthetic:n=100``; a
            path may be followed by options, as in ``folder:PATH,resize=32,mean=0.5/0.5/0.5``.
        split: ``train`` or ``test``.
        options: keyword arguments of the reader, for example ``mean=`` and ``std=``; they win over the text's.

    Raises:
        UnknownName: no such dataset.
        InvalidConfig: an option or a split that it does not have, or a missing path.
        UnreadableArtifact: a missing, truncated or malformed file, named.
    """
    name, _, tail = spec.partition(":")
    reader = datasets.get(name)
    arguments = coerce(reader, path_and_options(tail) | options | {"split": split}, what=f"dataset {name!r}")
    for key in ("mean", "std"):
        if isinstance(arguments.get(key), str):
            arguments[key] = _numbers(arguments[key], f"{key} of dataset {name!r}")
    for parameter in inspect.signature(reader).parameters.values():
        if parameter.default is parameter.empty and parameter.name not in arguments:
            raise InvalidConfig(f"the dataset {name} needs a path", hint=f"write {name}:{parameter.name.upper()}")
    return reader(**arguments)


def path_and_options(tail: str) -> dict[str, object]:
    """Read what follows the name: a path, options, or a path and options."""
    if not tail or (match := _TAIL.fullmatch(tail)) is None:
        return {}
    path = {"root": match["root"]} if match["root"] else {}
    return path | parse_spec(f":{match['alone'] or match['options'] or ''}")[1]


def _numbers(text: str, what: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split("/"))
    except ValueError:
        raise InvalidConfig(f"{what} is {text!r}, not numbers", hint="one per channel, as in 0.49/0.48/0.45") from None
