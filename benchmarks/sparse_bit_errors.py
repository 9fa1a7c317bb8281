"""The cost of a chip with few errors: one bit in ten thousand, put into eight-bit weights in place."""

from __future__ import annotations

from benchmarks import _harness
from benchmarks.bit_errors import compare


def measure() -> _harness.Result:
    """Put errors of rate 1e-4 into the same memory both ways, on one core."""
    return compare(1e-4, repeats=5)


if __name__ == "__main__":
    _harness.main(measure)
