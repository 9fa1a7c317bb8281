"""Plans on disk: for one model only, read with suspicion, and never a weaker placement than they say."""

from __future__ import annotations

import json
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch

from holdfast.cli._serve_gateway import _placements
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
    other = export(FLOAT, IMAGES[:1], 2 * IMAGES, top_code=64)
    assert read_plan(path).placements(other) == read_plan(path).placements(model)


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
