"""Specifications within specifications: a value in parentheses keeps its commas."""

from __future__ import annotations

import pytest

from holdfast._registry import parse_spec
from holdfast.errors import InvalidConfig


@pytest.mark.parametrize(
    ("spec", "name", "options"),
    [
        ("a", "a", {}),
        ("a:b=1,c=2", "a", {"b": "1", "c": "2"}),
        ("a:b=(c:d=1,e=2),f=3", "a", {"b": "c:d=1,e=2", "f": "3"}),
        ("a:b=(c:d=(e:f=1,g=2),h=3)", "a", {"b": "c:d=(e:f=1,g=2),h=3"}),
        ("a:b=c:d=1,f=3", "a", {"b": "c:d=1", "f": "3"}),
        ("a:path=/tmp/copy (1)/x,b=2", "a", {"path": "/tmp/copy (1)/x", "b": "2"}),
        ("a:path=(old)/x(1),b=2", "a", {"path": "(old)/x(1)", "b": "2"}),
        ("a:path=x),b=2", "a", {"path": "x)", "b": "2"}),
        ("a:b=()", "a", {"b": ""}),
    ],
)
def test_only_a_value_in_parentheses_keeps_its_commas(spec: str, name: str, options: dict[str, str]) -> None:
    assert parse_spec(spec) == (name, options)


@pytest.mark.parametrize("spec", ["a:b=(c:d=1,e=2", "a:b=((c)"])
def test_an_open_parenthesis_is_refused(spec: str) -> None:
    with pytest.raises(InvalidConfig, match="not closed"):
        parse_spec(spec)
