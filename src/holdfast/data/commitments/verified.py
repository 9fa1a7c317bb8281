"""Datasets whose every sample is checked against a commitment before it is used.

Two kinds, for the two kinds of dataset there are: :class:`VerifiedImages` for ours, which every verb of Holdfast takes
as the dataset it is, and :class:`VerifiedSamples` for whatever torch calls map-style. Both work in the worker processes
of a ``DataLoader``, forked or spawned, and count there what was used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from holdfast.data.commitments.arrow_rows import is_hugging_face, stored_rows, table_rows
from holdfast.data.commitments.checker import Checker, Epoch, Key
from holdfast.data.commitments.commitment import Commitment, Committed
from holdfast.data.commitments.element import Encoder, Fields, index_key
from holdfast.data.commitments.samples import ImageElements, MapStyle, item_fields, prefixed_keys
from holdfast.data.dataset import Dataset
from holdfast.errors import InvalidConfig

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class Counted:
    """What all kinds of verified data share: the checker, and the end of an epoch."""

    checker: Checker

    @property
    def commitment(self) -> Commitment:
        """What the samples are held against."""
        return self.checker.commitment

    def standing(self, passes: int = 1) -> Epoch:
        """Return what was used since the last complete epoch: missing, extra and repeated samples, and the sums."""
        return self.checker.epoch(passes)

    def require_complete(self, *, passes: int = 1, padding: int | None = None) -> Epoch:
        """Return the epoch's account if it used exactly the signed samples, or raise; the next epoch begins.

        A sample counts once it is handed out, to a loader too: workers run ahead of whoever takes their batches, so
        take all of them before this is asked.

        Args:
            passes: how often every sample should have come since the last call.
            padding: how many repeats are accepted; by default fewer than there are ranks.

        Raises:
            DigestMismatch: samples are missing, extra or repeated, or the sums differ; the first are named.
        """
        return self.checker.require_complete(passes=passes, padding=padding)

    def reduce(self, group: ProcessGroup | None = None) -> Epoch:
        """Add up what all ranks of ``torch.distributed`` used; every rank calls it before :meth:`require_complete`.

        Raises:
            Unavailable: there is no process group.
            DigestMismatch: another rank checks against another commitment or subset.
        """
        return self.checker.reduce(group)


class _Plan:
    """How a batch of images is hashed; prepared once, carried to workers."""

    def __init__(self, data: Dataset, checker: Checker) -> None:
        named = checker.table.names
        keys = [named[place] for place in checker.places]
        ids = {dataset for dataset, _ in keys}
        if len(ids) != 1:
            raise InvalidConfig("an image dataset is checked against one source", hint="name it: source=...")
        self.keys = prefixed_keys(key for _, key in keys)
        self.order = torch.arange(len(keys))
        self.elements = ImageElements(data, ids.pop())


@dataclass(frozen=True, eq=False)
class VerifiedImages(Counted, Dataset):
    """A :class:`holdfast.data.Dataset` that checks and counts what it hands out.

    ``batch``, ``batches``, ``all`` and indexing give checked samples. ``raw`` and ``labels`` are the tensors as they
    are in memory; whoever takes samples from them directly takes them unchecked.
    """

    checker: Checker = field(kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "_plan", _Plan(self, self.checker))

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return checked float32 images (b, c, h, w) ready for a network and int64 labels (b,), counted as used.

        Raises:
            DigestMismatch: a sample is not what was signed; key, index and field are named.
        """
        return self._checked(indices, count=True)

    def _checked(self, indices: Tensor, *, count: bool) -> tuple[Tensor, Tensor]:
        plan = self._plan_of()
        at = plan.order[indices]  # a mask, a list or negative numbers become the places they stand for
        raw, labels, places = self.raw[at], self.labels[at], at.tolist()  # copies: what is hashed is what is used
        digests, sizes = plan.elements.elements([plan.keys[place] for place in places], raw, labels)

        def fields(place: int) -> Fields:
            return ImageElements.fields_of(self, raw[place], int(labels[place]))

        if count:
            self.checker.use(places, digests, sum(sizes), fields)
        else:
            self.checker.located(places, digests, fields)
        return self.inputs(raw), labels

    def _plan_of(self) -> _Plan:
        plan: _Plan = self._plan  # type: ignore[attr-defined]
        return plan

    @property
    def example(self) -> Tensor:
        """The first sample as a network input, shape (c, h, w), checked but not counted."""
        return self._checked(torch.tensor([0]), count=False)[0][0]

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return one checked network input (c, h, w) and its label."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, int]]:
        """Return the samples at ``indices`` checked in one go; torch's loader calls this for a whole batch."""
        images, labels = self.batch(torch.as_tensor(indices, dtype=torch.int64))
        return list(zip(images, labels.tolist(), strict=True))

    def subset(self, indices: Tensor | Sequence[int]) -> Dataset:
        """Return the checked samples at ``indices``, with an account of their own."""
        chosen = torch.as_tensor(indices, dtype=torch.int64)
        plain = Dataset(self.name, self.raw, self.labels, self.classes, self.preprocessing).subset(chosen)
        narrowed = self.checker.narrowed(chosen.tolist())
        return VerifiedImages(plain.name, plain.raw, plain.labels, plain.classes, plain.preprocessing, checker=narrowed)


class VerifiedSamples(Counted, TorchDataset[Any]):
    """A map-style dataset that hands out each sample only if it is the committed one.

    Args:
        dataset: gives (sample, label), a mapping of fields, or a tuple as ``fields`` names it; as stored, since
            augmentation comes after the check.
        checker: what to hold the samples against.
        fields: names of the parts of a tuple.
        transform: called with each checked sample; this is where augmentation belongs.
    """

    def __init__(
        self,
        dataset: MapStyle,
        checker: Checker,
        *,
        fields: Sequence[str] = ("sample", "label"),
        transform: Callable[[Any], Any] | None = None,
    ) -> None:
        self.dataset, self.checker, self.fields, self.transform = dataset, checker, tuple(fields), transform
        ids = dict.fromkeys(name for name, _ in checker.table.names)
        self._encoders = {name: Encoder(name) for name in ids}
        named = checker.table.names
        self._keys = [named[place] for place in checker.places]

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, index: int) -> Any:
        """Return one checked sample."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """Return the samples at ``indices`` checked in one go; torch's loader calls this for a whole batch."""
        items, read = self._read(indices)
        elements = []
        for index, fields in zip(indices, read, strict=True):
            dataset, key = self._keys[index]
            elements.append(self._encoders[dataset].element(key, fields))
        self.checker.use(
            indices, [item.digest for item in elements], sum(item.size for item in elements), lambda at: read[at]
        )
        return items if self.transform is None else [self.transform(item) for item in items]

    def _read(self, indices: Sequence[int]) -> tuple[list[Any], list[Fields]]:
        """Return the items of a batch and their fields, both from one private copy of what is stored."""
        if is_hugging_face(self.dataset):
            table, features = stored_rows(self.dataset, indices), self.dataset.features  # type: ignore[attr-defined]
            return [features.decode_example(row) for row in table.to_pylist()], list(table_rows(table))
        items = [_private(self.dataset[index]) for index in indices]
        return items, [item_fields(item, self.fields) for item in items]


def _private(item: Any) -> Any:
    """Copy arrays, tensors and images: what lies in a mapped file could change between the check and the use."""
    if isinstance(item, Tensor):
        return item.clone()
    if isinstance(item, np.ndarray) and not isinstance(item, np.ma.MaskedArray):
        return np.array(item)
    if isinstance(item, dict):
        return {name: _private(value) for name, value in item.items()}
    if isinstance(item, list | tuple):
        made = getattr(type(item), "_make", list if isinstance(item, list) else tuple)  # of a named tuple
        return made(map(_private, item))
    if type(item).__module__.partition(".")[0] == "PIL":
        return item.copy()
    return item


@overload
def checked(
    dataset: Dataset,
    whole: Committed,
    *,
    source: str | None = ...,
    keys: Sequence[str | Key] | None = ...,
    subset: Iterable[str | Key] | None = ...,
    fields: Sequence[str] = ...,
    transform: Callable[[Any], Any] | None = ...,
) -> VerifiedImages: ...


@overload
def checked(
    dataset: MapStyle,
    whole: Committed,
    *,
    source: str | None = ...,
    keys: Sequence[str | Key] | None = ...,
    subset: Iterable[str | Key] | None = ...,
    fields: Sequence[str] = ...,
    transform: Callable[[Any], Any] | None = ...,
) -> VerifiedSamples: ...


def checked(
    dataset: Dataset | MapStyle,
    whole: Committed,
    *,
    source: str | None = None,
    keys: Sequence[str | Key] | None = None,
    subset: Iterable[str | Key] | None = None,
    fields: Sequence[str] = ("sample", "label"),
    transform: Callable[[Any], Any] | None = None,
) -> VerifiedImages | VerifiedSamples:
    """Return ``dataset`` so that every sample is held against ``whole`` before it is used.

    Nothing here looks at signatures: :func:`holdfast.verified` does, and then calls this.

    Args:
        dataset: one of ours, or any map-style dataset.
        whole: the commitment and its table.
        source: the dataset id the samples were committed under; needed where there are several.
        keys: of every index, in order: text, or (dataset id, key); places by default.
        subset: keys of the samples that an epoch is to use; all of the source's by default.
        fields: names of the parts of a sample that is a tuple.
        transform: called with each checked sample (not for our own datasets, which have their augmentations).

    Raises:
        DigestMismatch: the keys of the dataset are not the committed ones; the first that differ are named.
        InvalidConfig: the source is not said, or options do not fit the dataset.
    """
    count = len(dataset)
    if keys is not None and len(keys) != count:
        raise InvalidConfig(f"{len(keys)} keys for {count} samples")
    full = [full_key(key, whole, source) for key in (map(index_key, range(count)) if keys is None else keys)]
    checker = Checker(whole, full, None if subset is None else [full_key(key, whole, source) for key in subset])
    if isinstance(dataset, Dataset):
        if transform is not None:
            raise InvalidConfig("a transform goes with a torch dataset", hint="ours take augment= where they are used")
        return VerifiedImages(
            dataset.name, dataset.raw, dataset.labels, dataset.classes, dataset.preprocessing, checker=checker
        )
    return VerifiedSamples(dataset, checker, fields=fields, transform=transform)


def full_key(key: str | Key, whole: Committed, source: str | None) -> Key:
    """Return (dataset id, key) of a sample named by its key alone, where there is one source or it is said which."""
    if not isinstance(key, str):
        return key
    if source is not None:
        return whole.commitment.source(source).dataset, key
    if len(whole.commitment.sources) != 1:
        names = ", ".join(item.dataset for item in whole.commitment.sources)
        raise InvalidConfig(f"{whole.commitment.name} has several sources", hint=f"source= one of {names}")
    return whole.commitment.sources[0].dataset, key
