"""Saved integer models: the same bits after a round trip, one identity, and every kind of damage refused by name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import holdfast
from holdfast.errors import DigestMismatch, HoldfastError, InvalidConfig, UnreadableArtifact, UnsupportedVersion
from holdfast.evidence import canonical
from holdfast.evidence.digest import digest_bytes
from holdfast.models import card, manifest_of, save
from holdfast.models.tensors import tensor_digest
from holdfast.shielding import shield
from holdfast.shielding.graph import IntegerModel, Ref, export
from holdfast.shielding.graph.leaves import SOFTMAX_TABLE
from holdfast.signing import generate_key
from holdfast.signing.lineage import identify
from tests.unit.shielding.graph.nets import NETS, inputs, seeded
from tests.unit.shielding.graph.test_export import exported as floated_and_exported
from tests.unit.shielding.graph.vision import NETWORKS

Program = dict[str, Any]
Tensors = dict[str, Tensor]


def exported(name: str) -> IntegerModel:
    return floated_and_exported(name)[1]


def kept(name: str, folder: Path) -> Path:
    exported(name).save(folder)
    return folder


def program_of(folder: Path) -> Program:
    found: Program = json.loads((folder / "program.json").read_bytes())
    return found


def forge(folder: Path, change: Callable[[Program, Tensors], None]) -> None:
    """Change program and tensors as somebody would who computes all digests anew."""
    program, tensors = program_of(folder), load_file(folder / "model.safetensors")
    before = {name: value.clone() for name, value in tensors.items()}
    change(program, tensors)
    save_file(tensors, folder / "model.safetensors")
    for name in tensors.keys() & program.get("tensors", {}).keys():
        known = before.get(name, torch.empty(0))
        if not torch.equal(known, tensors[name]) or known.dtype != tensors[name].dtype:
            stated = {"dtype": str(tensors[name].dtype).removeprefix("torch."), "shape": list(tensors[name].shape)}
            program["tensors"][name] = {**stated, "blake3": tensor_digest(name, tensors[name])}
    data = canonical.dumps(program)
    (folder / "program.json").write_bytes(data)
    description = json.loads((folder / "model.json").read_bytes())
    description["architecture"] = f"integer-graph:program={digest_bytes(data)}"
    (folder / "model.json").write_bytes(canonical.dumps(description))


@pytest.mark.parametrize("name", NETS)
def test_a_saved_model_gives_the_same_bits(name: str, tmp_path: Path) -> None:
    model, x = exported(name), inputs(name, 5)
    again = IntegerModel.load(kept(name, tmp_path / "kept"))
    assert torch.equal(again(x), model(x))
    assert again.bounds() == model.bounds()
    assert again.steps == model.steps
    assert (again.input_shape, again.top_code) == (model.input_shape, model.top_code)
    assert card(again).lineage == card(model).lineage
    assert not again.training


def test_a_saved_model_computes_through_a_worker(tmp_path: Path) -> None:
    again, x = IntegerModel.load(kept("vit", tmp_path)), inputs("vit", 2)
    with shield(again) as session:
        assert torch.equal(session(x), exported("vit")(x))


def test_the_same_model_gives_the_same_bytes_and_one_identity(tmp_path: Path) -> None:
    first, second = kept("llama", tmp_path / "first"), tmp_path / "second"
    holdfast.save(IntegerModel.load(first), second)
    digests = [
        {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.iterdir())}
        for folder in (first, second)
    ]
    assert digests[0] == digests[1]
    assert sorted(digests[0]) == ["model.json", "model.safetensors", "program.json"]
    assert manifest_of(exported("llama")).digest == identify(first).digest["blake3"]


def test_the_identity_depends_on_every_operation() -> None:
    model = exported("mobilenet")
    place = next(number for number, step in enumerate(model.steps) if step.target == "aten.hardtanh.default")
    steps = list(model.steps)
    steps[place] = replace(steps[place], args=(steps[place].args[0], -1.0, 6.0))
    other = IntegerModel(
        tuple(steps),
        {step.path: model.get_submodule(step.path) for step in model.steps if step.path},
        {name.removeprefix("constant_"): value for name, value in model._buffers.items() if value is not None},
        input=model.input,
        output=model.output,
        input_shape=model.input_shape,
        top_code=model.top_code,
    )
    card(other).lineage = list(card(model).lineage)
    assert manifest_of(other).digest != manifest_of(model).digest  # though every tensor is the same


def test_a_token_model_says_what_it_takes(tmp_path: Path) -> None:
    again = IntegerModel.load(kept("llama", tmp_path))
    assert (again.vocabulary, again.input_dtype) == (512, torch.int64)
    assert (exported("vit").vocabulary, exported("vit").input_dtype) == (None, torch.float32)


def test_signing_covers_the_program(tmp_path: Path) -> None:
    folder, key = kept("causal", tmp_path / "kept"), generate_key("ed25519")
    holdfast.sign(folder, key=key)
    x = inputs("causal", 2)
    assert torch.equal(holdfast.load(folder, trust=key.public)(x), exported("causal")(x))
    forge(folder, lambda program, _: program["steps"].pop(0))
    with pytest.raises(DigestMismatch):
        holdfast.load(folder, trust=key.public)


def damaged(folder: Path, name: str, place: int) -> None:
    data = bytearray((folder / name).read_bytes())
    data[place] ^= 1
    (folder / name).write_bytes(bytes(data))


@pytest.mark.parametrize("name", ["model.json", "program.json", "model.safetensors"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.97])
def test_one_flipped_bit_anywhere_is_refused(name: str, share: float, tmp_path: Path) -> None:
    folder = kept("causal", tmp_path)
    if name == "model.json":
        share = (folder / name).read_bytes().index(b"program=") / (folder / name).stat().st_size + 0.05
    damaged(folder, name, int(share * (folder / name).stat().st_size))
    with pytest.raises(HoldfastError):
        holdfast.load(folder)


def test_a_changed_weight_is_named(tmp_path: Path) -> None:
    folder = kept("causal", tmp_path)
    tensors = load_file(folder / "model.safetensors")
    tensors["q.codes"][0, 0] ^= 1
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(DigestMismatch, match=r"q\.codes"):
        holdfast.load(folder)


def test_a_program_of_another_model_is_refused(tmp_path: Path) -> None:
    first, second = kept("causal", tmp_path / "a"), kept("bool", tmp_path / "b")
    (first / "program.json").write_bytes((second / "program.json").read_bytes())
    with pytest.raises(DigestMismatch, match=r"not the program that model\.json names"):
        holdfast.load(first)
    (first / "program.json").unlink()
    with pytest.raises(UnreadableArtifact, match=r"program\.json"):
        holdfast.load(first)


def step_of(program: Program, target: str) -> Program:
    found: Program = next(step for step in program["steps"] if step["target"].startswith(target))
    return found


def set_bound(program: Program, _: Tensors) -> None:
    program["modules"]["q"]["bound"] -= 1


def set_weight(_: Program, tensors: Tensors) -> None:
    tensors["q.codes"][0] = 127


def set_product_bound(program: Program, _: Tensors) -> None:
    program["modules"]["scores"]["bound"] = 1


def set_inner(program: Program, _: Tensors) -> None:
    program["modules"]["scores"] |= {"inner": 2, "bound": 2 * 32767**2}


def set_top_code(program: Program, _: Tensors) -> None:
    program["top_code"] = 100


def set_wide_top_code(program: Program, _: Tensors) -> None:
    program["top_code"] = 200
    for described in program["modules"].values():
        if "top_code" in described:
            described["top_code"] = 200


def set_geometry(program: Program, _: Tensors) -> None:
    program["modules"]["q"]["geometry"]["in_channels"] = 24


def set_sample_shape(program: Program, _: Tensors) -> None:
    program["modules"]["q"]["sample_shape"] = [8, 12]


def set_input_shape(program: Program, _: Tensors) -> None:
    program["input_shape"] = [7, 13]


def set_operation(program: Program, _: Tensors) -> None:
    step_of(program, "aten.")["target"] = "aten.from_file.default"


def set_writing_operation(program: Program, _: Tensors) -> None:
    step_of(program, "aten.")["target"] = "aten.add.out"


def set_python(program: Program, _: Tensors) -> None:
    step_of(program, "aten.")["target"] = "python.setitem"


def set_exact(program: Program, _: Tensors) -> None:
    step_of(program, "exact.")["target"] = "exact.softmax_table"


def set_float_sum(program: Program, _: Tensors) -> None:
    step_of(program, "aten.masked_fill").update(target="aten.cumsum.default", args=[{"ref": program["input"]}, 0])


def set_order(program: Program, _: Tensors) -> None:
    program["steps"].reverse()


def set_twice(program: Program, _: Tensors) -> None:
    program["steps"].append(dict(program["steps"][0]))


def set_output(program: Program, _: Tensors) -> None:
    program["output"] = "elsewhere"


def set_module(program: Program, _: Tensors) -> None:
    step_of(program, "module")["path"] = "nowhere"


def set_idle(program: Program, _: Tensors) -> None:
    program["modules"]["idle"] = {"kind": "softmax", "dim": -1}


def set_field(program: Program, _: Tensors) -> None:
    program["modules"]["q"]["hook"] = "os.system"


def set_key(program: Program, _: Tensors) -> None:
    program["extra"] = 1


def set_nan(_: Program, tensors: Tensors) -> None:
    tensors["q.weight_scale"][0] = torch.nan


def set_scale(_: Program, tensors: Tensors) -> None:
    tensors["q.activation_scale"].fill_(-1.0)


def set_table(_: Program, tensors: Tensors) -> None:
    tensors[f"constant_{SOFTMAX_TABLE}"][7] += 0.5


def set_dtype(_: Program, tensors: Tensors) -> None:
    tensors["q.weight_scale"] = tensors["q.weight_scale"].double()


def set_missing(program: Program, tensors: Tensors) -> None:
    del tensors["q.weight_scale"], program["tensors"]["q.weight_scale"]


def set_file_only(_: Program, tensors: Tensors) -> None:
    del tensors["q.weight_scale"]


def set_additional(_: Program, tensors: Tensors) -> None:
    tensors["q.spare"] = torch.ones(1)


def set_argument(program: Program, _: Tensors) -> None:
    step_of(program, "aten.mul")["args"][1] = {"float": "0x1p-3"}


def set_large_whole(program: Program, _: Tensors) -> None:
    step_of(program, "aten.mul")["args"][1] = {"int": "5"}


def set_steps(program: Program, _: Tensors) -> None:
    program["steps"] = [{}] * 100_001


FORGERIES: dict[str, tuple[Callable[[Program, Tensors], None], str]] = {
    "bound": (set_bound, "node 'q' states the accumulator bound"),
    "weight beyond its bound": (set_weight, "node 'q' states the accumulator bound"),
    "bound of a product": (set_product_bound, "node 'scores' states the accumulator bound"),
    "products in a sum": (set_inner, "node 'scores' states 2 products"),
    "top code": (set_top_code, "another top code"),
    "top code beyond int8": (set_wide_top_code, "1 .. 127"),
    "geometry": (set_geometry, "node 'q' cannot be"),
    "shape of a sample": (set_sample_shape, "node 'q' states samples"),
    "shape of the input": (set_input_shape, "does not compute|samples"),
    "operation that reads files": (set_operation, r"no operation 'aten\.from_file\.default'"),
    "operation that writes": (set_writing_operation, r"no operation 'aten\.add\.out'"),
    "function of Python": (set_python, "no operation 'python.setitem'"),
    "function of ours": (set_exact, "no operation 'exact.softmax_table'"),
    "float sum": (set_float_sum, "whole numbers only"),
    "order": (set_order, "before it is computed"),
    "name twice": (set_twice, "two values"),
    "output": (set_output, "the output is no step"),
    "module": (set_module, "names no module"),
    "idle module": (set_idle, "no step computes node 'idle'"),
    "field of a node": (set_field, "described by other fields"),
    "key": (set_key, "'extra' is unknown"),
    "NaN": (set_nan, "q.weight_scale holds NaN"),
    "scale": (set_scale, "q.activation_scale is a scale and not above zero"),
    "table": (set_table, "table of softmax"),
    "dtype": (set_dtype, "not as its node wants it"),
    "missing tensor": (set_missing, "'q.weight_scale' is missing"),
    "missing in the file": (set_file_only, "missing from model.safetensors"),
    "additional tensor": (set_additional, "'q.spare', which the program does not name"),
    "float in other words": (set_argument, "an argument is float"),
    "small number in words": (set_large_whole, "an argument is int"),
    "too many steps": (set_steps, "more than 100000"),
}


@pytest.mark.parametrize("what", FORGERIES)
def test_a_forged_program_is_refused_by_name(what: str, tmp_path: Path) -> None:
    change, message = FORGERIES[what]
    folder = kept("causal", tmp_path)
    forge(folder, change)
    with pytest.raises(UnreadableArtifact, match=message):
        holdfast.load(folder)


def test_another_version_is_refused(tmp_path: Path) -> None:
    folder = kept("causal", tmp_path)
    forge(folder, lambda program, _: program.update(type="holdfast.integer-program/v2"))
    with pytest.raises(UnsupportedVersion, match="integer-program/v1"):
        holdfast.load(folder)


def test_an_unknown_kind_of_program_is_refused(tmp_path: Path) -> None:
    folder = kept("causal", tmp_path)
    text = (folder / "model.json").read_text().replace("integer-graph:", "integer-soup:")
    (folder / "model.json").write_text(text)
    with pytest.raises(HoldfastError, match="integer-soup"):
        holdfast.load(folder)


def test_another_kind_of_model_is_no_integer_model(tmp_path: Path) -> None:
    save(holdfast.models.build_architecture("digits-cnn"), tmp_path)
    with pytest.raises(InvalidConfig, match="no integer model"):
        IntegerModel.load(tmp_path)


def test_what_json_cannot_say_is_refused_on_saving(tmp_path: Path) -> None:
    model = exported("causal")
    odd = replace(model.steps[0], args=(Ref(model.input), 1j), target="aten.mul.Tensor", path="", name="odd")
    broken = IntegerModel(
        (odd,), {}, {}, input=model.input, output="odd", input_shape=model.input_shape, top_code=model.top_code
    )
    with pytest.raises(InvalidConfig, match=r"step 'odd' \(aten\.mul\.Tensor\) cannot be written down"):
        broken.save(tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


class Reserved(nn.Module):
    """Has submodules with the names of what an integer model says about itself."""

    def __init__(self) -> None:
        super().__init__()
        self.input, self.output = nn.Linear(4, 6), nn.Sequential(nn.Linear(6, 3), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.output(torch.relu(self.input(x)))  # type: ignore[no-any-return]


def test_submodules_may_be_called_input_and_output(tmp_path: Path) -> None:
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    model = export(Reserved(), x[:1], x)
    assert sorted(model.bounds()) == ["input_", "output_.0"]
    model.save(tmp_path)
    assert torch.equal(IntegerModel.load(tmp_path)(x), model(x))


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_at_224_give_the_same_bits_when_read_back(name: str, tmp_path: Path) -> None:
    x = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    model = export(seeded(NETWORKS[name]), x[:1], x)
    model.save(tmp_path)
    again = IntegerModel.load(tmp_path)
    assert torch.equal(again(x), model(x))
    assert again.bounds() == model.bounds()
    assert manifest_of(again).digest == manifest_of(model).digest


@pytest.mark.slow
def test_a_trained_llama_gives_the_same_bits_when_read_back(shared_data: Path, tmp_path: Path) -> None:
    tokens = torch.randint(3, 512, (6, 24), generator=torch.Generator().manual_seed(1))
    model = export(holdfast.load(shared_data / "tiny-llama-260k"), tokens[:1], tokens)
    model.save(tmp_path)
    assert torch.equal(IntegerModel.load(tmp_path)(tokens), model(tokens))


def test_the_published_model_still_opens_and_gives_its_bits(repository: Path) -> None:
    folder = repository / "tests" / "vectors" / "integer-model"
    known, model = load_file(folder / "io.safetensors"), IntegerModel.load(folder)
    assert torch.equal(model(known["inputs"]), known["outputs"])
    assert sorted(model.bounds()) == ["conv", "depthwise", "head", "mix", "product", "product_2"]
    assert model.program() == (folder / "program.json").read_bytes()
