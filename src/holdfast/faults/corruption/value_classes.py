"""Values drawn from measured classes, in the manner of CLASSES (Bolchini et al., 2022).

What an instruction-level injector found in the outputs of an operator is a mixture: some corrupted tensors are all of
one class of values, in range, out of range, NaN, infinite or zero, others of several. A file holds the mixture, and for
each class with a range the histogram of its values. It is canonical or plain JSON of exactly these fields::

    {"type": "holdfast.value-classes/v1", "source": "where the numbers come from", "of": "ratio",
     "tensors": [{"weight": 0.8, "elements": {"in-range": 1.0}},
                 {"weight": 0.2, "elements": {"in-range": 0.6, "nan": 0.4}}],
     "histograms": {"in-range": [[-1.0, 0.0, 3], [0.0, 1.0, 7]]}}

``of`` says what the histograms count: ``value``, the corrupted number; ``ratio``, corrupted over right; or
``difference``, corrupted minus right. A bin is [low, high, weight]; within it all numbers are equally likely. The
classes ``nan``, ``inf``, ``-inf`` and ``zero`` have no histogram; any other name is one that ``histograms`` has.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from holdfast._files import read_bytes
from holdfast.errors import InvalidConfig, UnreadableArtifact, UnsupportedFormat, UnsupportedVersion
from holdfast.evidence import canonical
from holdfast.evidence.digest import digest_bytes
from holdfast.execution.condition import Flips, InTurn, Rewrite
from holdfast.execution.rewrites import Becomes, Scaled, Shifted
from holdfast.faults.corruption.catalogue import Region, values
from holdfast.faults.corruption.effects import require_whole
from holdfast.faults.marks import words
from holdfast.models.site import Site
from holdfast.numerics.formats.floating_point import FloatingPoint
from holdfast.numerics.values import codes_of, number_kind
from holdfast.seeds import Seed, derive

VALUE_CLASSES_TYPE = "holdfast.value-classes/v1"
SPECIAL = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf, "zero": 0.0}
_FIELDS = {"type", "source", "of", "tensors", "histograms"}


@dataclass(frozen=True)
class ValueClasses:
    """A mixture of classes of values.

    Attributes:
        of: what the histograms count: ``value``, ``ratio`` or ``difference``.
        tensors: (weight, classes of the elements with their shares), one for each kind of corrupted tensor.
        histograms: class -> bins (low, high, weight).
        digest: of the file.
    """

    of: str
    tensors: tuple[tuple[float, tuple[tuple[str, float], ...]], ...]
    histograms: Mapping[str, tuple[tuple[float, float, float], ...]]
    digest: str = ""


def read_value_classes(path: str) -> ValueClasses:
    """Read a file of value classes.

    Raises:
        UnreadableArtifact: missing, no strict JSON, or malformed.
        UnsupportedVersion: another type of file.
    """
    data = read_bytes(path, "value classes", limit=canonical.MAX_BYTES)
    value = canonical.loads(data, what=path)
    if not isinstance(value, dict) or value.get("type") != VALUE_CLASSES_TYPE:
        raise UnsupportedVersion(f"{path} holds no {VALUE_CLASSES_TYPE}")
    try:
        if set(value) != _FIELDS or value["of"] not in ("value", "ratio", "difference"):
            raise ValueError(f"it has exactly {', '.join(sorted(_FIELDS))}, and of is value, ratio or difference")
        histograms = {name: tuple(map(_bin, bins)) for name, bins in value["histograms"].items()}
        if any(name in SPECIAL or not bins for name, bins in histograms.items()):
            raise ValueError(f"a histogram has bins, and {', '.join(SPECIAL)} have no histogram")
        tensors = tuple(_tensor(item, {*histograms, *SPECIAL}) for item in value["tensors"])
        if not tensors:
            raise ValueError("there is no kind of corrupted tensor")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UnreadableArtifact(f"{path} is malformed: {error}") from error
    return ValueClasses(value["of"], tensors, histograms, digest_bytes(data))


def _weight(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError(f"a weight is a positive number, not {value!r}")
    return float(value)


def _bin(value: Any) -> tuple[float, float, float]:
    low, high, weight = value
    if any(isinstance(end, bool) or not isinstance(end, int | float) for end in (low, high)) or not low <= high:
        raise ValueError(f"a bin goes from a number to one that is not less, not {value!r}")
    return float(low), float(high), _weight(weight)


def _tensor(value: Any, known: set[str]) -> tuple[float, tuple[tuple[str, float], ...]]:
    if set(value) != {"weight", "elements"} or not value["elements"] or not set(value["elements"]) <= known:
        raise ValueError(f"a kind of tensor has a weight and elements among {', '.join(sorted(known))}")
    return _weight(value["weight"]), tuple((name, _weight(share)) for name, share in value["elements"].items())


@values.register("histogram")
@dataclass(frozen=True, kw_only=True)
class Histogram:
    """Numbers drawn from measured classes: ``histogram:path=classes.json``, or classes in memory.

    One kind of corrupted tensor is drawn for all elements of an event, then a class for every element, then a number.
    """

    path: str | None = None
    classes: ValueClasses | None = None

    def __post_init__(self) -> None:
        if (self.path is None) == (self.classes is None):
            raise InvalidConfig("classes of values come from a file or from memory", hint="histogram:path=classes.json")
        _ = self.mixture  # a file that cannot be read is refused now

    @functools.cached_property
    def mixture(self) -> ValueClasses:
        """The classes."""
        return self.classes if self.classes is not None else read_value_classes(self.path or "")

    @property
    def digest(self) -> str:
        """Digest of the file."""
        return self.mixture.digest

    def changes(self, site: Site, region: Region, seed: Seed) -> Flips:
        """Return the rules that set, scale or shift the elements of ``region``.

        Raises:
            UnsupportedFormat: the site's format has no NaN or infinity, and one is drawn.
        """
        require_whole(region, "a class of values")
        weights = [weight for weight, _ in self.mixture.tensors]
        at = _chosen(derive(seed, "tensor"), np.zeros(1, np.int64), weights)[0]
        names, shares = zip(*self.mixture.tensors[at][1], strict=True)
        drawn = _chosen(derive(seed, "class"), region.index, shares)
        order, rules = [], []
        for place, name in enumerate(names):
            own = region.index[drawn == place]
            if len(own):
                order.append(torch.from_numpy(own))
                rules.append((self._rule(site, name, own, seed), len(own)))
        index = torch.cat(order)
        return Flips(
            site, index, torch.zeros_like(index), rewrite=rules[0][0] if len(rules) == 1 else InTurn(tuple(rules))
        )

    def _rule(self, site: Site, name: str, index: np.ndarray, seed: Seed) -> Rewrite:
        if name in SPECIAL:
            kind = number_kind(site.format)
            if name != "zero" and not (isinstance(kind, FloatingPoint) and (name == "nan" or kind.infinities)):
                raise UnsupportedFormat(f"{site.address} holds {site.format}, which has no {name}")
            return Becomes(codes_of(_full(index, SPECIAL[name]), site.format, site.bits))
        numbers = self._numbers(self.mixture.histograms[name], index, derive(seed, "number"))
        if self.mixture.of == "value":
            return Becomes(codes_of(numbers, site.format, site.bits))
        return Scaled(numbers.unsqueeze(1)) if self.mixture.of == "ratio" else Shifted(numbers)

    @staticmethod
    def _numbers(bins: Sequence[tuple[float, float, float]], index: np.ndarray, seed: Seed) -> Tensor:
        low, high, weights = (np.array(side) for side in zip(*bins, strict=True))
        place = _chosen(derive(seed, "bin"), index, list(weights))
        return torch.from_numpy(low[place] + (high - low)[place] * _uniform(derive(seed, "within"), index))


def _full(index: np.ndarray, value: float) -> Tensor:
    return torch.full((len(index),), value, dtype=torch.float64)


def _uniform(seed: Seed, index: np.ndarray) -> np.ndarray:
    drawn: np.ndarray = (words(seed, index).view(np.uint64) >> np.uint64(11)) * 2.0**-53
    return drawn


def _chosen(seed: Seed, index: np.ndarray, weights: Sequence[float]) -> np.ndarray:
    """Return the number of one of ``weights`` for every index, each drawn in proportion."""
    ends = np.cumsum(weights)
    place: np.ndarray = np.searchsorted(ends[:-1] / ends[-1], _uniform(seed, index), side="right")
    return place
