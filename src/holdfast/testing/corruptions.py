"""The laws of a pattern and of a value, the two parts of a corruption."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from holdfast.execution.condition import Flips
from holdfast.faults.corruption import Pattern, Region, Value
from holdfast.models.site import Site
from holdfast.seeds import derive
from holdfast.testing.contract import require
from holdfast.testing.faults import check_flips, same_flips

PLACES = 8

_SHAPES: tuple[tuple[str, tuple[int, ...]], ...] = (
    ("weights", (6, 4)),
    ("weights", (4, 3, 2, 2)),
    ("activations", (3, 4, 5)),
    ("activations", (7, 6)),
    ("activations", (9,)),
    ("buffers", ()),
    ("cache", (2, 5, 4)),
)


def check_pattern(pattern: Pattern) -> None:
    """Check every law of :class:`holdfast.faults.corruption.Pattern` on sites of several kinds, shapes and widths.

    Raises:
        ContractBroken: the first law that does not hold.
    """
    _require_frozen(pattern, Pattern, "Pattern")
    for kind, shape in _SHAPES:
        for width, format in ((4, "int4"), (32, "fp32"), (64, "fp64")):
            site = Site(kind, "site", shape, format, width)
            for number in range(PLACES):
                _check_region(pattern, site, derive(number, "place").key % site.population)


def _check_region(pattern: Pattern, site: Site, address: int) -> None:
    element, bit = divmod(address, site.bits)
    seed = derive(address, "check-pattern")
    region, again = (pattern.region(site, element, bit, seed) for _ in range(2))
    index = region.index
    require(np.array_equal(index, again.index), pattern, "the same seed must give the same region")
    require(index.dtype == np.int64 and index.ndim == 1, pattern, "elements are int64, shape (n,)")
    require(element in index, pattern, "a region holds the element it is laid around")
    inside = bool((index >= 0).all() and (index < site.numel).all())
    require(inside, pattern, f"elements lie within {site.shape or 'a single number'}")
    require(bool((np.diff(index) > 0).all()), pattern, "elements ascend, each once")
    if region.bits is None:
        return
    require(
        region.bits.shape == index.shape and region.bits.dtype == np.int64, pattern, "bits are int64, one mask each"
    )
    above = region.bits >> site.bits if site.bits < 64 else np.zeros_like(region.bits)
    require(bool((region.bits != 0).all() and not above.any()), pattern, f"bits are some of the {site.bits}")


def check_value(value: Value) -> None:
    """Check every law of :class:`holdfast.faults.corruption.Value` on regions of float sites.

    Raises:
        ContractBroken: the first law that does not hold.
    """
    _require_frozen(value, Value, "Value")
    for site, region in _regions():
        for number in range(PLACES):
            seed = derive(number, "check-value")
            item, again = value.changes(site, region, seed), value.changes(site, region, seed)
            _check_change(value, site, region, item)
            require(same_flips([item], [again]), value, "the same seed must give the same changes")


def _check_change(value: Value, site: Site, region: Region, item: Flips) -> None:
    require(item.site == site, value, "changes the site it is given")
    require(set(item.index.tolist()) == set(region.index.tolist()), value, "changes the region, all of it and no more")
    check_flips(value, item)


def _regions() -> Iterator[tuple[Site, Region]]:
    for format, width in (("fp64", 64), ("fp32", 32), ("bf16", 16), ("fp16", 16), ("fp8-e5m2", 8)):
        site = Site("activations", "site", (3, 4, 5), format, width)
        yield site, Region(np.arange(7, dtype=np.int64), anchor=width - 1)
        yield site, Region(np.array([59], dtype=np.int64))


def _require_frozen(part: object, protocol: type, name: str) -> None:
    require(isinstance(part, protocol), part, f"is no {name}")
    parameters = getattr(type(part), "__dataclass_params__", None)
    require(parameters is not None and parameters.frozen, part, f"a {name.lower()} is a frozen dataclass")
