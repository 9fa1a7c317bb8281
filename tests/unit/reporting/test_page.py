"""The page shows the records' numbers, escapes hostile names, and asks nobody for anything."""

from __future__ import annotations

import re

import pytest

from holdfast.evidence.record import Measurement, Record
from holdfast.evidence.statement import Subject
from holdfast.reporting import render
from holdfast.reporting.verdicts import verdicts

SUBJECT = Subject("model", {"blake3": "ab" * 32})
SIGNER = {"fingerprint": "cd" * 32, "ephemeral": False}
EXTRA = {"title": "T", "signer": SIGNER, "created": "2026-01-01", "command": "holdfast assess"}


def record(kind: str, facts: dict[str, object] | None = None, **values: float) -> Record:
    measured = {
        name.replace("_", "-"): Measurement(v, max(0.0, v - 0.01), min(1.0, v + 0.01), 100)
        for name, v in values.items()
    }
    return Record(kind=kind, subject=SUBJECT, procedure={}, measured=measured, facts=facts or {})


def artifact(dataset: str = "digits") -> Record:
    return record("artifact", {"dataset": dataset}, clean_accuracy=0.9173)


def test_numbers_and_identity_are_shown() -> None:
    page = render([artifact(), record("fault-campaign", critical_or_due=0.0312)], EXTRA).decode()
    assert "91.73" in page
    assert "3.12%" in page
    assert "ab" * 32 in page
    assert "cd" * 32 in page


def test_hostile_text_is_escaped() -> None:
    hostile = "<img src=x onerror=alert(1)>"
    page = render([artifact(hostile)], EXTRA | {"title": hostile}).decode()
    assert hostile not in page
    assert "&lt;img" in page


def test_no_outside_reference() -> None:
    page = render([artifact()], EXTRA).decode()
    assert not re.search(r"(src|href)\s*=|url\(|@import|<script|<link", page)


def test_ephemeral_key_is_said() -> None:
    page = render([artifact()], EXTRA | {"signer": SIGNER | {"ephemeral": True}}).decode()
    assert "ephemeral key" in page
    assert "ephemeral" not in render([artifact()], EXTRA).decode()


@pytest.mark.parametrize(("equal", "share", "state"), [(True, 1.0, "good"), (False, 1.0, "bad"), (True, 0.99, "bad")])
def test_a_shield_that_missed_a_lie_is_bad(equal: bool, share: float, state: str) -> None:
    found = {"artifact": artifact(), "shield": record("shield", {"bit_equal": equal}, detected=share)}
    assert verdicts(found, SIGNER)[3].state == state


def test_what_was_not_measured_says_so() -> None:
    cards = verdicts({"artifact": artifact()}, SIGNER)
    assert [card.state for card in cards] == ["good", "none", "none", "none"]
    assert all(card.interval == "not measured" for card in cards[1:])


def test_an_unidentified_platform_is_no_success() -> None:
    facts = {"class": "unknown", "classes": 7}
    cards = verdicts({"artifact": artifact(), "platform": record("platform", facts, identified=0.5)}, SIGNER)
    assert cards[1].state == "warn"


def test_what_is_guaranteed_stands_under_the_chart_of_bit_errors() -> None:
    curve = [{"rate": rate, "mean": 0.1, "low": 0.0, "high": 0.3} for rate in (0.001, 0.01)]
    facts = {"curves": {"int8": curve}, "guarantees": ["At a rate of 0.001, published: vacuous <b>."]}
    page = render([artifact(), record("bit-errors", facts)], EXTRA).decode()
    assert "published: vacuous &lt;b&gt;." in page
    older = {"curves": {"int8": curve}}  # a record written before there were any
    assert "All arms meet the same chips." in render([artifact(), record("bit-errors", older)], EXTRA).decode()
