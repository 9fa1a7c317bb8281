"""RFC 8785, by its own examples."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import InvalidConfig, UnreadableArtifact
from holdfast.evidence import canonical

# RFC 8785, appendix B: IEEE 754 bits and the text they must give
NUMBERS = {
    "0000000000000000": "0",
    "8000000000000000": "0",
    "0000000000000001": "5e-324",
    "8000000000000001": "-5e-324",
    "7fefffffffffffff": "1.7976931348623157e+308",
    "ffefffffffffffff": "-1.7976931348623157e+308",
    "4340000000000000": "9007199254740992",
    "c340000000000000": "-9007199254740992",
    "4430000000000000": "295147905179352830000",
    "44b52d02c7e14af5": "9.999999999999997e+22",
    "44b52d02c7e14af6": "1e+23",
    "44b52d02c7e14af7": "1.0000000000000001e+23",
    "444b1ae4d6e2ef4e": "999999999999999700000",
    "444b1ae4d6e2ef4f": "999999999999999900000",
    "444b1ae4d6e2ef50": "1e+21",
    "3eb0c6f7a0b5ed8c": "9.999999999999997e-7",
    "3eb0c6f7a0b5ed8d": "0.000001",
    "41b3de4355555553": "333333333.3333332",
    "41b3de4355555554": "333333333.33333325",
    "41b3de4355555555": "333333333.3333333",
    "becbf647612f3696": "-0.0000033333333333333333",
    "43143ff3c1cb0959": "1424953923781206.2",
}


@pytest.mark.parametrize("bits", list(NUMBERS))
def test_numbers(bits: str) -> None:
    (value,) = struct.unpack(">d", bytes.fromhex(bits))
    assert canonical.dumps(value).decode() == NUMBERS[bits]


def test_keys_sort_by_utf16() -> None:
    keys = ["\u20ac", "\r", "\ufb33", "1", "\U0001f600", "\u0080", "\u00f6"]
    text = canonical.dumps(dict.fromkeys(keys, 0)).decode()
    order = [
        text.index(canonical.dumps(key).decode())
        for key in ["\r", "1", "\u0080", "\u00f6", "\u20ac", "\U0001f600", "\ufb33"]
    ]
    assert order == sorted(order)


def test_strings_escape_only_what_they_must() -> None:
    assert canonical.dumps('\u20ac$\x0f\nA\'B"\\"/') == b'"\xe2\x82\xac$\\u000f\\nA\'B\\"\\\\\\"/"'


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2**53 + 1, {1: 2}, b"x", "\ud800", {"a": {1, 2}}])
def test_what_json_lacks_is_refused(value: object) -> None:
    with pytest.raises(InvalidConfig):
        canonical.dumps(value)


@pytest.mark.parametrize("text", [b'{"a":1,"a":2}', b"[NaN]", b"[1", b"\xff", b"[" * 70 + b"]" * 70, b"[Infinity]"])
def test_the_reader_is_strict(text: bytes) -> None:
    with pytest.raises(UnreadableArtifact):
        canonical.loads(text)


def test_size_is_bounded() -> None:
    with pytest.raises(UnreadableArtifact, match="longer"):
        canonical.loads(b"[1,2,3]", max_bytes=3)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(JSON)
def test_round_trip_and_fixed_point(value: object) -> None:
    try:
        once = canonical.dumps(value)
    except InvalidConfig:
        return  # a lone surrogate
    assert canonical.loads(once) == value
    assert canonical.dumps(canonical.loads(once)) == once
