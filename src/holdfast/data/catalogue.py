"""Datasets by name."""

from __future__ import annotations

from holdfast._registry import Registry
from holdfast.data.dataset import Dataset

datasets: Registry[Dataset] = Registry("dataset", "holdfast.datasets")


def dataset(spec: str, *, split: str = "test", **options: object) -> Dataset:
    """Return a dataset.

    Args:
        spec: ``digits``, ``cifar10:ROOT``, ``cifar100:ROOT``, ``mnist:ROOT``, ``folder:PATH``, ``synthetic:n=100``.
        split: ``train`` or ``test``.
        options: keyword arguments of the reader, for example ``mean=`` and ``std=``.

    Raises:
        UnknownName: no such dataset.
        UnreadableArtifact: a missing, truncated or malformed file, named.
    """
    name, _, tail = spec.partition(":")
    if tail and "=" not in tail.partition(",")[0]:
        return datasets.get(name)(tail, split=split, **options)
    return datasets.build(spec, split=split, **options)
