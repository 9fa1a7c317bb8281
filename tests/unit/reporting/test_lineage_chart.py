"""The drawing of a lineage: everything is there once, nothing overlaps, and hostile names stay text."""

from __future__ import annotations

from itertools import combinations
from xml.etree import ElementTree

import pytest

from holdfast.evidence.lineage import Step
from holdfast.evidence.record import Measurement, Record
from holdfast.evidence.statement import Subject
from holdfast.reporting import render
from holdfast.reporting.lineage_chart import lineage_chart
from holdfast.signing.lineage.picture import Box, Picture, picture_of_steps

A, B, C, D = ("aa" * 32, "bb" * 32, "cc" * 32, "dd" * 32)
STEPS = (
    Step("build", {}, {}),
    Step("train", {}, {"data": C, "model": A}),
    Step("quantize", {}, {"model": B}),
    Step("harden", {}, {"data": C, "model": D}),
)
HOSTILE = '<script>alert("x")</script>&'
MERGED = Picture(
    (
        Box("x:1", "merged", "model", "merge", "signed", "somebody"),
        Box("x:2", HOSTILE, "model", "train", "signed", HOSTILE),
        Box("x:3", "two", "model", "train", "gap", "no signed statement is about it"),
        Box("x:4", "first", "dataset", "", "listed"),
        Box("x:5", "second", "dataset", "", "signed", "lab"),
        Box("x:6", "source of the second", "dataset", "", "signed", "lab"),
    ),
    (
        ("x:1", "x:2", "model"),
        ("x:1", "x:3", "model"),
        ("x:2", "x:4", "data"),
        ("x:3", "x:5", "data"),
        ("x:5", "x:6", "data"),
    ),
)
PICTURES = {"told": picture_of_steps(STEPS, "ee" * 32), "merged": MERGED}


def tags(picture: Picture, name: str) -> list[ElementTree.Element]:
    root = ElementTree.fromstring(lineage_chart(picture))
    return [item for item in root.iter() if item.tag.endswith(name)]


@pytest.mark.parametrize("name", list(PICTURES))
def test_every_thing_is_one_box_inside_the_picture_and_none_overlap(name: str) -> None:
    boxes = tags(PICTURES[name], "rect")
    assert len(boxes) == len(PICTURES[name].boxes)
    width, height = map(float, tags(PICTURES[name], "svg")[0].attrib["viewBox"].split()[2:])
    places = [tuple(float(box.attrib[key]) for key in ("x", "y", "width", "height")) for box in boxes]
    for x, y, w, h in places:
        assert 0 <= x <= x + w <= width
        assert 0 <= y <= y + h <= height
    for (x1, y1, w1, h1), (x2, y2, w2, h2) in combinations(places, 2):
        assert x1 + w1 <= x2 or x2 + w2 <= x1 or y1 + h1 <= y2 or y2 + h2 <= y1


@pytest.mark.parametrize("name", list(PICTURES))
def test_every_edge_is_one_arrow(name: str) -> None:
    arrows = [item for item in tags(PICTURES[name], "path") if item.attrib["class"] == "flow"]
    assert len(arrows) == len(PICTURES[name].arrows)


def test_first_steps_stand_above_later_ones() -> None:
    rows = [text.text for text in tags(PICTURES["told"], "text") if text.attrib["class"] == "label"]
    tops = {text.text: float(text.attrib["y"]) for text in tags(PICTURES["told"], "text")}
    assert set(rows) == {"build: model", "train: model", "quantize: model", "harden: model", "data"}
    assert tops["build: model"] < tops["train: model"] < tops["quantize: model"] < tops["harden: model"]
    assert tops["data"] == tops["train: model"]


def test_what_is_not_proved_looks_different() -> None:
    kinds = [box.attrib["class"] for box in tags(MERGED, "rect")]
    assert [kinds.count(f"box b-{state}") for state in ("signed", "listed", "gap")] == [4, 1, 1]


def test_nothing_told_is_no_picture() -> None:
    assert lineage_chart(picture_of_steps((), A)) == ""


def record(lineage: tuple[Step, ...]) -> Record:
    return Record(
        kind="artifact",
        subject=Subject("model", {"blake3": "ee" * 32}),
        procedure={"type": "artifact", "version": 1},
        measured={"clean-accuracy": Measurement(0.9, 0.8, 1.0, 10)},
        facts={"dataset": "digits", "weights": 1, "leaves": 1, "architecture": "digits-cnn", "correct": 9},
        lineage=tuple(step.to_json() for step in lineage),
    )


EXTRA = {"title": "M", "signer": {"fingerprint": A, "ephemeral": False}, "created": "now", "command": "holdfast assess"}


def test_the_report_draws_what_the_model_tells_and_says_that_it_is_not_verified() -> None:
    page = render([record(STEPS)], EXTRA).decode()
    assert "How the model came to be" in page
    assert "Nothing here is verified" in page
    assert "How the model came to be" not in render([record(())], EXTRA).decode()
