"""Parity-check matrices as columns: one integer per data bit, bit i of it says whether check bit i covers the data bit.

The column of check bit i is ``1 << i`` throughout (systematic codes), so a code is its data columns and nothing else.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from itertools import islice

from holdfast.errors import InvalidConfig
from holdfast.seeds import derive


@functools.cache
def hsiao(data: int, check: int) -> tuple[int, ...]:
    """Return odd-weight columns (Hsiao, IBM J. Res. Dev. 14, 1970), lightest first, rotations of one pattern together.

    Distinct columns of odd weight: two errors sum to an even syndrome, which is no column, so doubles are detected.
    Rotations keep the rows of (72, 64) equally heavy, 26 data bits each.

    Raises:
        InvalidConfig: more data bits than ``check`` bits can tell apart.
    """
    found = (column for weight in range(3, check + 1, 2) for column in _orbits(check, weight))
    return _exactly(found, data, check)


@functools.cache
def extended_hamming(data: int, check: int) -> tuple[int, ...]:
    """Return the columns of a Hamming code with an overall parity bit, the last check bit, brought to systematic form.

    Data bit j has the j-th position that is no power of two; the overall parity covers every bit, so in systematic
    form it covers the data bits whose position has an even number of ones.
    """
    low = check - 1
    places = (place for place in range(3, 1 << low) if place.bit_count() > 1)
    return _exactly((place | (place.bit_count() + 1) % 2 << low for place in places), data, check)


@functools.cache
def hamming(data: int, check: int, design: int = 0) -> tuple[int, ...]:
    """Return the columns of a shortened Hamming code: different, and of two ones or more; which ones, ``design`` draws.

    Makers of on-die ECC do not publish their columns, and which doubles miscorrect where depends on them (Patel et
    al., MICRO 2020). Ascending columns would be a poor stand-in: they are nearly closed under addition, so that nine
    doubles of ten were miscorrected, where drawn ones give about one in two.
    """
    found = [place for place in range(3, 1 << check) if place.bit_count() > 1]
    order = derive(design, "hamming", check).numpy().permutation(len(found)).tolist()
    return _exactly((found[k] for k in order), data, check)


def parity(data: int) -> tuple[int, ...]:
    """Return the columns of one parity bit."""
    return (1,) * data


def _exactly(found: Iterator[int], data: int, check: int) -> tuple[int, ...]:
    columns = tuple(islice(found, data))
    if len(columns) < data:
        raise InvalidConfig(f"{check} check bits cannot guard {data} data bits", hint=f"at most {len(columns)}")
    return columns


def _orbits(bits: int, weight: int) -> Iterator[int]:
    """Yield the patterns of ``bits`` bits and ``weight`` ones, each followed by its rotations."""
    top = (1 << bits) - 1
    for pattern in range(1 << bits):
        if pattern.bit_count() != weight:
            continue
        turned = [(pattern << k | pattern >> (bits - k)) & top for k in range(bits)]
        if pattern == min(turned):
            yield from dict.fromkeys(turned)
