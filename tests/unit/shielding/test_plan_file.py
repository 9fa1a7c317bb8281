"""Plans on disk: for one model only, read with suspicion, and never a weaker placement than they say."""

from __future__ import annotations

import json
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch

from holdfast.cli._serve_gateway import _ground, _placements
from holdfast.errors import DigestMismatch, InvalidConfig, StorageError, UnreadableArtifact, UnsupportedVersion
from holdfast.models import build_architecture, manifest_of
from holdfast.shielding import integer_layers, shield
from holdfast.shielding.gateway import sources
from holdfast.shielding.graph import IntegerModel, export
from holdfast.shielding.plan_file import read_plan, write_plan
from holdfast.shielding.planner import plan
from holdfast.shielding.sealing import Budget
from tests.unit.shielding.nets import session_with
from tests.unit.shielding.planner.test_plan import FAST_WORKER

IMAGES = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
FLOAT = build_architecture("digits-cnn").eval()


@pytest.fixture(scope="module")
def model() -> IntegerModel:
    return export(FLOAT, IMAGES[:1], IMAGES)


def written(model: IntegerModel, folder: Path, rule: str = "optimal:hide_weights=fc", digest: str = "") -> Path:
    path = folder / "plan.json"
    write_plan(path, plan(model, rule, machine=FAST_WORKER), digest or manifest_of(model).digest)
    return path


def test_a_session_runs_where_the_plan_says(model: IntegerModel, tmp_path: Path) -> None:
    placements = read_plan(written(model, tmp_path)).placements(model)
    assert placements == plan(model, "optimal:hide_weights=fc", machine=FAST_WORKER).placements
    assert placements["fc"] == "trusted"
    with shield(model, placements=placements) as session:
        assert session.placements == placements
        assert torch.equal(session(IMAGES), model(IMAGES))


def test_a_plan_of_the_float_model_is_of_its_exports(model: IntegerModel, tmp_path: Path) -> None:
    path = written(model, tmp_path, "slalom", manifest_of(FLOAT).digest)
    assert set(read_plan(path).placements(model).values()) == {"blinded"}
    other = export(FLOAT, IMAGES[:1], 2 * IMAGES)
    assert read_plan(path).placements(other) == read_plan(path).placements(model)
    with pytest.raises(DigestMismatch, match="says top_code 127; of this model it is 64"):
        read_plan(path).placements(export(FLOAT, IMAGES[:1], IMAGES, top_code=64))


def test_a_plan_of_another_model_is_refused(model: IntegerModel, tmp_path: Path) -> None:
    path = written(model, tmp_path)
    other = export(FLOAT, IMAGES[:1], 2 * IMAGES)  # the same layers with other ranges
    with pytest.raises(DigestMismatch, match=f"is of model {manifest_of(model).digest[:12]}"):
        read_plan(path).placements(other)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("tsqp", "leaves 'conv1' probed"),
        ("last-k:k=1", "leaves 'conv1' exposed"),
        ("none", "exposed: no session believes"),
        ("whole", "nothing to offload"),
    ],
)
def test_a_plan_that_no_session_keeps_is_refused(rule: str, message: str, model: IntegerModel, tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match=message):
        read_plan(written(model, tmp_path, rule)).placements(model)


def soften(value: dict[str, Any]) -> None:
    node = next(node for node in value["nodes"] if node["placement"] == "blinded")
    node["sees"]["weights"] = "nothing"


def vow(value: dict[str, Any]) -> None:
    value["guarantees"] = ["the worker sees nothing at all"]


def call_trusted(value: dict[str, Any]) -> None:
    value["nodes"][0]["world"] = "trusted"


def shrink(value: dict[str, Any]) -> None:
    value["nodes"][0]["macs"] = 1


def raise_range(value: dict[str, Any]) -> None:
    value["top_code"] = 3


def spend_less(value: dict[str, Any]) -> None:
    value["total"]["memory"] -= 1


def rename_rule(value: dict[str, Any]) -> None:
    value["rule"] = "slalom:private=false"


def claim_all_trusted(value: dict[str, Any]) -> None:
    value["rule"] = "whole"


def claim_a_deadline(value: dict[str, Any]) -> None:
    value["rule"] = "deadline:seconds=1,sensitivity=found.json"


def demand(value: dict[str, Any]) -> None:
    value["rule"] = "optimal:hide_weights=fc"


@pytest.mark.parametrize(
    ("forge", "message"),
    [
        (soften, "other than what the worker sees"),
        (vow, "promises other than what its placement keeps"),
        (call_trusted, "says world 'trusted' of 'conv1'; of this model it is 'untrusted'"),
        (shrink, "says macs 1 of 'conv1'"),
        (raise_range, "says top_code 3; of this model it is 127"),
        (spend_less, r"says memory \d+ in all"),
        (rename_rule, "another placement than its rule slalom:private=false"),
        (claim_all_trusted, "another placement than its rule whole"),
        (claim_a_deadline, "another placement than its rule deadline"),
        (demand, "is of the rule optimal:hide_weights=fc, and shows weights of 'fc'"),
    ],
)
def test_words_for_people_that_the_placement_does_not_keep_are_refused(
    forge: Callable[[dict[str, Any]], None], message: str, model: IntegerModel, tmp_path: Path
) -> None:
    path = written(model, tmp_path, "slalom")
    value = json.loads(path.read_text())
    forge(value)
    path.write_text(json.dumps(value))
    with pytest.raises(DigestMismatch, match=message):
        read_plan(path).placements(model)


def drop_node(value: dict[str, Any]) -> None:
    value["nodes"] = [node for node in value["nodes"] if node["name"] != "fc"]


def repeat_node(value: dict[str, Any]) -> None:
    value["nodes"].append(value["nodes"][0])


DAMAGE: dict[str, tuple[Callable[[dict[str, Any]], object], type[Exception], str]] = {
    "type": (lambda value: value.update(type="holdfast.shield-plan/v9"), UnsupportedVersion, "shield-plan/v1"),
    "no model": (lambda value: value.pop("model"), UnreadableArtifact, "which model it is for"),
    "no rule": (lambda value: value.pop("rule"), UnreadableArtifact, "no rule"),
    "nodes": (lambda value: value.update(nodes={}), UnreadableArtifact, "no nodes"),
    "word": (lambda value: value["nodes"][0].update(placement="believed"), UnreadableArtifact, "known placement"),
    "name": (lambda value: value["nodes"][0].pop("name"), UnreadableArtifact, "without a name"),
    "no guarantees": (lambda value: value.pop("guarantees"), UnreadableArtifact, "has no 'guarantees'"),
    "no sight": (lambda value: value["nodes"][0].pop("sees"), UnreadableArtifact, "has no 'sees'"),
    "no budget": (lambda value: (value.pop("budget"), value.pop("mask_memory")), UnreadableArtifact, "has no 'budget'"),
    "unknown": (lambda value: value.update(placement="trusted"), UnreadableArtifact, "an unknown 'placement'"),
    "unknown of a node": (lambda v: v["nodes"][1].update(public=True), UnreadableArtifact, "an unknown 'public'"),
    "missing node": (drop_node, DigestMismatch, "differ at node 'fc'"),
    "node twice": (repeat_node, UnreadableArtifact, "a node twice"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_plan_is_one_clear_error(what: str, model: IntegerModel, tmp_path: Path) -> None:
    change, kind, message = DAMAGE[what]
    path = written(model, tmp_path)
    value = json.loads(path.read_bytes())
    change(value)
    path.write_text(json.dumps(value))
    with pytest.raises(kind, match=message):
        read_plan(path).placements(model)


def test_what_is_no_json_is_no_plan(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text("{")
    with pytest.raises(UnreadableArtifact):
        read_plan(tmp_path / "plan.json")
    with pytest.raises(UnreadableArtifact):
        read_plan(tmp_path / "absent.json")


def test_the_budget_of_a_plan_is_what_its_session_keeps_to(model: IntegerModel, tmp_path: Path) -> None:
    """What masks of one sample take is part of the plan, so the rest of the budget holds more samples."""
    free = plan(model, "slalom", machine=FAST_WORKER)
    assert free.mask_memory is None
    need = free.total.memory
    for budget in (need, need + 10_000):
        made = plan(model, "slalom", machine=FAST_WORKER, budget=budget)
        path = tmp_path / f"{budget}.json"
        write_plan(path, made, manifest_of(model).digest)
        stored = read_plan(path)
        layers = integer_layers(model).values()
        one = sum(4 * (prod(x.sample_shape) + prod(x.geometry.output_shape(x.sample_shape))) for x in layers)
        assert stored.mask_memory == made.mask_memory == one + budget - need
        with session_with(model, placements=stored.placements(model), budget=Budget(stored.mask_memory)) as session:
            assert torch.equal(session(IMAGES), model(IMAGES))
            with pytest.raises(StorageError, match=f"of {stored.mask_memory} bytes"):
                session.prepare(1000)
            assert torch.equal(session(IMAGES), model(IMAGES))


def test_the_gateway_hands_the_budget_to_its_sessions(model: IntegerModel, tmp_path: Path) -> None:
    made = plan(model, "slalom", machine=FAST_WORKER, budget=200_000)
    write_plan(tmp_path / "plan.json", made, manifest_of(model).digest)
    placements, memory = _placements(model, None, tmp_path / "plan.json")
    assert memory == made.mask_memory
    (source,) = sources(model, ["spawn"], sessions=1, placements=placements, memory=memory)
    opened = source.open()
    with opened.session as session:
        assert session._budget.left == memory
    (source,) = sources(model, ["unix:/nowhere"], sessions=1, placements=placements, memory=memory)
    assert source._memory == memory


@pytest.mark.parametrize("memory", [None, 0, -1, True, "10", 1.5])
def test_a_plan_with_a_budget_says_what_it_leaves_to_masks(model: IntegerModel, tmp_path: Path, memory: object) -> None:
    path = tmp_path / "plan.json"
    write_plan(path, plan(model, "slalom", machine=FAST_WORKER, budget=200_000), manifest_of(model).digest)
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"mask_memory": memory}))
    with pytest.raises(UnreadableArtifact, match="has a budget of 200000 bytes and leaves"):
        read_plan(path)


@pytest.mark.parametrize("change", [{"budget": 300_000}, {"mask_memory": 1}, {"budget": 10_000, "mask_memory": 10}])
def test_what_a_budget_leaves_to_masks_follows_from_it(
    model: IntegerModel, tmp_path: Path, change: dict[str, int]
) -> None:
    path = tmp_path / "plan.json"
    write_plan(path, plan(model, "slalom", machine=FAST_WORKER, budget=200_000), manifest_of(model).digest)
    path.write_text(json.dumps(json.loads(path.read_bytes()) | change))
    with pytest.raises((DigestMismatch, InvalidConfig), match=r"says mask_memory|may use 10,000"):
        read_plan(path).placements(model)


def test_a_gateway_says_at_start_what_it_runs_under(model: IntegerModel, tmp_path: Path) -> None:
    made = plan(model, "optimal:hide_weights=fc", machine=FAST_WORKER, budget=200_000)
    write_plan(path := tmp_path / "plan.json", made, manifest_of(model).digest)
    words = made.placements
    line = _ground(model, *_placements(model, None, path), path)
    for word in set(words.values()):
        names = [name for name, own in words.items() if own == word]
        assert f"{len(names)} {word} ({', '.join(names)})" in line
    assert f"under {path}: " in line
    assert f"masks within {made.mask_memory:,} bytes a session" in line
    free = _ground(model, *_placements(model, None, None), None)
    assert free == (
        "gateway runs without a plan: 4 blinded (conv1, conv2, conv3, fc); activation codes within 127; "
        "masks without a limit"
    )
