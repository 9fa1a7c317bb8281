"""Differences of models: each kind is told apart, and told shortly."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from holdfast.errors import InvalidConfig, SignerUntrusted
from holdfast.signing import generate_key
from holdfast.signing.diff import diff, explain, grouped, ranges
from holdfast.signing.manifests import write_manifest

KEY = generate_key()
PARTS = ("q_proj", "k_proj", "v_proj", "o_proj")
BASE = {
    f"model.layers.{n}.self_attn.{part}.weight": torch.full((2, 2), float(n * 10 + i))
    for n in range(32)
    for i, part in enumerate(PARTS)
} | {"lm_head.weight": torch.arange(6.0)}


def model(folder: Path, tensors: dict[str, torch.Tensor], **texts: str) -> Path:
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    for name, text in texts.items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return model(tmp_path / "base", BASE, README="a")


def test_equal_models_are_the_same(base: Path, tmp_path: Path):
    found = diff(base, model(tmp_path / "copy", BASE, README="a"))
    assert found.same_model
    assert found.same_content
    assert not found.files
    assert not found.tensors
    assert explain(found) == ["the two are the same, file by file"]


def test_a_tuned_model_is_told_in_a_line(base: Path, tmp_path: Path):
    tuned = {name: value + 1 if "q_proj" in name or "v_proj" in name else value for name, value in BASE.items()}
    found = diff(base, model(tmp_path / "tuned", tuned, README="b"))
    assert not found.same_model
    assert found.same_content is False
    assert len(found.tensors.changed) == 64
    assert found.tensors.same == 65
    assert explain(found) == [
        "only 64 of 129 tensors changed:",
        "  model.layers.0-31: self_attn.q_proj.weight, self_attn.v_proj.weight",
        "2 of 2 files changed:",
        "  README",
        "  model.safetensors",
    ]


def test_renamed_added_removed_retyped_and_reshaped_tensors_are_told_apart(base: Path, tmp_path: Path):
    other = dict(BASE)
    other["head.weight"] = other.pop("lm_head.weight")
    other["extra"] = torch.zeros(3)
    del other["model.layers.31.self_attn.o_proj.weight"]
    other["model.layers.0.self_attn.q_proj.weight"] = BASE["model.layers.0.self_attn.q_proj.weight"].reshape(4)
    other["model.layers.1.self_attn.q_proj.weight"] = BASE["model.layers.1.self_attn.q_proj.weight"].view(torch.int32)
    found = diff(base, model(tmp_path / "other", other))
    assert found.tensors.renamed == (("lm_head.weight", "head.weight"),)
    assert found.tensors.added == ("extra",)
    assert found.tensors.removed == ("model.layers.31.self_attn.o_proj.weight",)
    assert found.reshaped == (("model.layers.0.self_attn.q_proj.weight", (2, 2), (4,)),)
    assert found.retyped == (("model.layers.1.self_attn.q_proj.weight", "f32", "i32"),)
    assert found.files.removed == ("README",)
    assert "  lm_head.weight -> head.weight" in explain(found)
    assert found.to_json()["tensors"]["reshaped"] == [["model.layers.0.self_attn.q_proj.weight", [2, 2], [4]]]


def test_another_sharding_is_recognised(base: Path, tmp_path: Path):
    names = list(BASE)
    (tmp_path / "shards").mkdir()
    for number, part in enumerate((names[:50], names[50:])):
        save_file({name: BASE[name] for name in part}, tmp_path / "shards" / f"model-{number}.safetensors")
    found = diff(base, tmp_path / "shards")
    assert found.same_content
    assert not found.same_model
    assert not found.tensors
    assert set(found.moved) == set(BASE)
    assert explain(found)[0] == "the same tensors, in other files"


def test_names_that_two_files_share_are_told_apart_by_the_file(tmp_path: Path):
    for side, value in (("a", 1.0), ("b", 2.0)):
        (tmp_path / side).mkdir()
        save_file({"w": torch.ones(2)}, tmp_path / side / "x.safetensors")
        save_file({"w": torch.full((2,), value)}, tmp_path / side / "y.safetensors")
    assert diff(tmp_path / "a", tmp_path / "b").tensors.changed == ("y.safetensors:w",)


def test_signed_models_are_compared_without_their_files(base: Path, tmp_path: Path):
    other = model(tmp_path / "other", BASE | {"lm_head.weight": torch.zeros(6)}, README="a")
    for folder in (base, other):
        write_manifest(folder, KEY)
    bundle = (other / "model.sig2").rename(tmp_path / "other.sig2")
    (base / "model.safetensors").unlink()
    assert diff(base, bundle, trust=KEY.public).tensors.changed == ("lm_head.weight",)
    with pytest.raises(SignerUntrusted):
        diff(base, bundle, trust=generate_key().public)
    with pytest.raises(InvalidConfig, match="is a bundle"):
        diff(base, bundle)


def test_the_signature_is_no_difference(base: Path, tmp_path: Path):
    copy = model(tmp_path / "copy", BASE, README="a")
    write_manifest(base, KEY)
    assert diff(base, copy).same_model


@pytest.mark.parametrize(
    ("names", "lines"),
    [
        ([], []),
        (["b", "a"], ["a", "b"]),
        (["layers.0.w", "layers.1.w", "layers.3.w"], ["layers.0-1,3: w"]),
        (["layers.0.w", "layers.0.b", "layers.1.w"], ["layers.0: b, w", "layers.1: w"]),
        (["0.w", "1.w"], ["0-1: w"]),
        (["x.0", "x.1"], ["x.0-1"]),
        (["l.0.experts.0.w", "l.0.experts.1.w", "l.1.experts.0.w", "l.1.experts.1.w"], ["l.0-1: experts.0-1: w"]),
        (["a.01.b"], ["a.01.b"]),
    ],
)
def test_names_are_grouped_where_that_says_the_same(names: list[str], lines: list[str]):
    assert grouped(names) == lines


@given(st.sets(st.integers(0, 60), min_size=1))
def test_ranges_name_exactly_the_numbers(numbers: set[int]):
    named: set[int] = set()
    for part in ranges(numbers).split(","):
        first, _, last = part.partition("-")
        named |= set(range(int(first), int(last or first) + 1))
    assert named == numbers
