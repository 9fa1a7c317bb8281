"""A border input is one on every way of asking, from the saved file, and nothing else is ever written."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.nets import trained_digits

from holdfast.data import Dataset, Preprocessing, dataset
from holdfast.errors import DigestMismatch, InvalidConfig, UnknownName, UnreadableArtifact, VerificationError
from holdfast.evidence import canonical
from holdfast.evidence.digest import digest_bytes
from holdfast.identification import LOCAL_PLATFORMS, trace_on
from holdfast.identification.border import (
    BorderInput,
    BorderSet,
    Demands,
    Found,
    Lattice,
    Service,
    border,
    checked,
    open_oracles,
    recheck,
    transferred,
)
from holdfast.identification.border import oracle as oracle_module
from holdfast.identification.border.bisection import bisect
from holdfast.identification.border.lattice import png_bytes, png_pixels
from holdfast.identification.border.steps import Steps
from holdfast.seeds import derive


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return trained_digits()


@pytest.fixture(scope="module")
def data() -> Dataset:
    digits = dataset("digits")  # in 240 levels, for a finer lattice than the 16 they are stored in
    return Dataset("digits", digits.raw * 15, digits.labels, digits.classes, Preprocessing(1 / 240, (0.5,), (0.5,)))


@pytest.fixture(scope="module")
def found(model, data) -> BorderSet:
    return border(model, data, platforms=("default", "bf16", "fp16"), n=2)


@pytest.mark.parametrize("other", ["bf16", "fp16", "onednn-off", "batch-1"])
def test_two_stacks_of_this_machine_are_separated(model, data, other: str) -> None:
    item = border(model, data, platforms=("default", other), seed=1).inputs[0]
    assert item.pair == ("default", other)
    assert item.labels["default"] != item.labels[other]
    assert item.margin > 0
    assert int(item.image.max()) <= 240
    standing = item.standings[0]
    assert standing.asked == standing.agreed
    assert set(standing.asked) == {"positions", "neighbours", "repeats"}
    assert (standing.batch, standing.asked["positions"], standing.asked["neighbours"]) == (32, 32, 2)


def test_further_platforms_are_asked_and_recorded(found) -> None:
    assert [sorted(item.labels) for item in found.inputs] == [["bf16", "default", "fp16"]] * 2
    assert not torch.equal(found.inputs[0].image, found.inputs[1].image)


def test_the_saved_file_is_the_input(model, data, found, tmp_path: Path) -> None:
    with open_oracles(model, ["default", "bf16"], found.lattice) as oracles:
        found.save(tmp_path, oracles)
    again = BorderSet.load(tmp_path)
    assert again.model_digest == found.model_digest
    assert again.lattice == found.lattice
    pixels = png_pixels((tmp_path / "border-000.png").read_bytes())
    assert torch.equal(pixels, found.inputs[0].image)
    # nothing of ours in the way: the file, the preprocessing of the data, the net in both formats
    inputs = data.inputs(pixels[None].expand(32, -1, -1, -1))
    with torch.no_grad():
        plain = int(model(inputs)[0].argmax())
        narrow = int(copy.deepcopy(model).bfloat16()(inputs.bfloat16())[0].argmax())
    assert (plain, narrow) == (again.inputs[0].labels["default"], again.inputs[0].labels["bf16"])
    assert plain != narrow


@pytest.mark.slow
def test_platforms_read_at_start_up_run_in_a_worker_that_stays(model, data) -> None:
    item = border(model, data, platforms=("default", "aten-default"), batch=8).inputs[0]
    assert item.labels["default"] != item.labels["aten-default"]
    assert item.standings[1].batch == 8


@pytest.mark.slow
def test_a_border_input_holds_in_fresh_processes(model, data) -> None:
    demands = Demands(fresh=2)
    item = border(model, data, platforms=("default", "onednn-off"), demands=demands).inputs[0]
    assert item.standings[1].asked["fresh process"] == item.standings[1].agreed["fresh process"] == 2 * 34
    assert item.standings[1].spread == 0


def scripted(name: str, answer, batch: int = 4) -> Service:
    """A platform whose label of each row is ``answer(rows)``; margins are 1."""

    def call(inputs: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot(answer(inputs), 10).float()

    return Service(name, call, Lattice((1, 8, 8), Preprocessing(1 / 240)), batch)


def always(label: int):
    return lambda inputs: torch.full((len(inputs),), label)


class Moody:
    """Says 1, and from the second call on 2."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return torch.full((len(inputs),), 1 if self.calls <= 3 else 2)


IMAGE = torch.full((1, 8, 8), 7, dtype=torch.uint8)
LATTICE = Lattice((1, 8, 8), Preprocessing(1 / 240))


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (always(0), "both say 0"),
        (Moody(), "repeats 0 of 12"),
        (lambda rows: (torch.arange(len(rows)) == 0).long() + 1, "positions 1 of 4"),
        (lambda rows: 1 + (rows.flatten(1).std(1).max() > 0.1).long().expand(len(rows)), "neighbours 1 of 2"),
    ],
    ids=["same label", "changes its mind", "depends on the place", "depends on the neighbours"],
)
def test_what_is_no_border_input_is_refused_and_never_written(tmp_path: Path, other, why: str) -> None:
    oracles = [scripted("a", always(0)), scripted("b", other)]
    with pytest.raises(VerificationError, match=why):
        checked(IMAGE, oracles, LATTICE, Demands(), 0)
    good = checked(IMAGE, [scripted("a", always(0)), scripted("b", always(1))], LATTICE, Demands(), 0)
    if isinstance(other, Moody):
        other.calls = 0
    with pytest.raises(VerificationError, match="input 0"):
        BorderSet((good,), LATTICE, "m").save(tmp_path / "out", oracles)
    assert not (tmp_path / "out").exists()


def test_a_tie_or_a_nan_is_no_label() -> None:
    tie = Service("tie", lambda rows: torch.ones(len(rows), 10), LATTICE)
    broken = Service("nan", lambda rows: torch.full((len(rows), 10), torch.nan), LATTICE)
    for other in (tie, broken):
        with pytest.raises(VerificationError, match="does not keep its label"):
            checked(IMAGE, [scripted("a", always(3)), other], LATTICE, Demands(), 0)


def test_a_margin_that_is_asked_for_is_kept(model, data) -> None:
    with pytest.raises(VerificationError, match="smallest margin"):
        border(model, data, platforms=("default", "onednn-off"), demands=Demands(margin=0.1))


def test_a_changed_image_or_description_is_noticed(model, found, tmp_path: Path) -> None:
    with open_oracles(model, ["default", "bf16"], found.lattice) as oracles:
        found.save(tmp_path, oracles)
    index = json.loads((tmp_path / "border.json").read_text())
    changed = found.inputs[0].image.clone()
    changed[0, 0, 0] ^= 1
    (tmp_path / "border-000.png").write_bytes(png_bytes(changed))
    with pytest.raises(DigestMismatch, match=r"border-000\.png"):
        BorderSet.load(tmp_path)
    index["border"]["inputs"][0]["file"] = "../border-001.png"
    (tmp_path / "border.json").write_text(json.dumps(index))
    with pytest.raises(DigestMismatch, match=r"border\.json was changed"):
        BorderSet.load(tmp_path)
    index["digest"] = digest_bytes(canonical.dumps(index["border"]))
    (tmp_path / "border.json").write_text(json.dumps(index))
    with pytest.raises(UnreadableArtifact, match="no file name"):
        BorderSet.load(tmp_path)
    del index["digest"]  # whoever changes something cannot leave the digest out instead
    (tmp_path / "border.json").write_text(json.dumps(index))
    with pytest.raises(UnreadableArtifact, match="digest of its own"):
        BorderSet.load(tmp_path)
    (tmp_path / "border.json").write_text("{}")
    with pytest.raises(Exception, match="holds no"):
        BorderSet.load(tmp_path)


def test_platforms_that_are_one_give_no_border_input(model, data) -> None:
    with pytest.raises(VerificationError, match="part default and batch-1: they give the same bits for all of 128 im"):
        border(model, data, platforms=("default", "batch-1"), batch=1)


def test_single_small_images_take_one_path_with_and_without_onednn(model, data) -> None:
    # torch leaves single images of at most 20480 values to its own kernels: one class, and the message says so
    with pytest.raises(VerificationError, match=r"default and onednn-off: they give the same bits .*one class"):
        border(model, data, platforms=("default", "onednn-off"), batch=1)


def test_platforms_that_differ_are_not_called_one_class(model, data) -> None:
    with pytest.raises(VerificationError, match="0 of 1 border inputs of default and onednn-off found") as caught:
        border(model, data, platforms=("default", "onednn-off"), demands=Demands(margin=1.0))
    assert "different bits" in caught.value.hint


@pytest.mark.parametrize("name", ["default", "channels-last", "onednn-off", "bf16"])
def test_an_oracle_gives_the_bits_of_a_trace(model, data, name: str) -> None:
    with open_oracles(model, [name], Lattice.of(data), batch=4) as oracles:
        asked = oracles[0].logits(data.raw[:8])
    platform = dataclasses.replace(LOCAL_PLATFORMS[name], batch_size=4)
    assert torch.equal(asked, trace_on(platform, model, data.take(8)).outputs)


def test_a_call_that_cannot_work_says_so(model, data) -> None:
    with pytest.raises(InvalidConfig, match="two platforms"):
        border(model, data, platforms=("default",))
    with pytest.raises(InvalidConfig, match="called default"):
        border(model, data, platforms=("default", "default"))
    with pytest.raises(UnknownName, match="bf61"):
        border(model, data, platforms=("default", "bf61"))
    with pytest.raises(InvalidConfig, match="float32 pixels"):
        border(model, dataclasses.replace(data, raw=data.raw.float()), platforms=("default", "bf16"))
    with pytest.raises(InvalidConfig, match="at least one input"):
        border(model, data, platforms=("default", "bf16"), batch=0)


def test_bisection_ends_at_two_neighbours_of_different_class(model, data) -> None:
    def labels(images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return model(data.inputs(images)).argmax(1)

    one, two = data.raw[0], data.raw[int((data.labels != data.labels[0]).nonzero()[0])]
    crossing = bisect(labels, one, two)
    assert crossing is not None
    assert int((crossing.near.int() - crossing.far.int()).abs().sum()) == 1
    assert labels(torch.stack((crossing.near, crossing.far))).tolist() == [crossing.label, crossing.other]
    assert crossing.label != crossing.other
    assert bisect(labels, one, one) is None


def test_sums_of_measured_steps_close_a_gap_and_stay_on_the_lattice() -> None:
    generator = torch.Generator().manual_seed(0)
    slope = torch.randn((1, 8, 8), generator=generator, dtype=torch.float64) * 1e-3
    image = torch.randint(0, 241, (1, 8, 8), generator=generator, dtype=torch.uint8)
    image[0, 0] = 0
    image[0, 1] = 240
    drawn = Steps.drawn(image, 240, 128, derive(0, "steps").numpy())
    assert sorted(drawn.pixel.tolist()) == list(range(64))
    alone = drawn.images.int() - image.int()
    assert alone.flatten(1).abs().sum(1).tolist() == [1] * 64
    tried = drawn.measured((alone.double() * slope).flatten(1).sum(1).numpy()).candidates(0.002, 16)
    moved = tried.int() - image.int()
    assert len(torch.unique(tried, dim=0)) == 16
    assert int(moved.abs().max()) == 1
    assert set(moved.abs().flatten(1).sum(1).tolist()) <= {2, 3}
    assert int(tried[:, 0, 1].max()) <= 240
    left = 0.002 + (moved.double() * slope).flatten(1).sum(1)
    assert float(left.abs().max()) < 1e-4  # each pixel alone moves the gap by 1e-3


def test_sums_prefer_pixels_that_lie_apart() -> None:
    image = torch.full((1, 8, 8), 9, dtype=torch.uint8)
    steps = Steps(image, np.array([0, 1, 63]), np.array([1, 1, 1]), np.array([-1e-3, -1e-3, -1e-3]))
    moved = steps.candidates(2e-3, 3).int() - 9
    assert moved[0].flatten().nonzero().flatten().tolist() in ([0, 63], [1, 63])


def test_png_round_trips_grey_and_colour() -> None:
    for shape in [(1, 5, 7), (3, 5, 7)]:
        image = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
        assert torch.equal(png_pixels(png_bytes(image)), image)
    with pytest.raises(InvalidConfig, match="no PNG"):
        png_bytes(torch.zeros(2, 5, 7, dtype=torch.uint8))
    with pytest.raises(UnreadableArtifact, match="no PNG"):
        png_pixels(b"GIF89a")


def test_an_input_knows_whom_it_separates(found) -> None:
    item = found.inputs[0]
    assert isinstance(item, BorderInput)
    assert item.pair == ("default", "bf16")
    assert item.method == "LatticeSearch"


def test_a_search_goes_on_from_what_its_folder_holds(model, data, tmp_path: Path) -> None:
    first = border(model, data, platforms=("default", "bf16"), folder=tmp_path)
    both = border(model, data, platforms=("default", "bf16"), n=2, folder=tmp_path)
    assert len(both.inputs) == len(BorderSet.load(tmp_path).inputs) == 2
    assert torch.equal(both.inputs[0].image, first.inputs[0].image)
    assert not torch.equal(both.inputs[1].image, first.inputs[0].image)
    with pytest.raises(InvalidConfig, match="another model"):
        border(model, data, platforms=("default", "fp16"), folder=tmp_path)


def test_answers_and_gradients_are_those_of_one_copy_of_the_model(data, monkeypatch: pytest.MonkeyPatch) -> None:
    copies = list[str]()
    monkeypatch.setattr(oracle_module, "placed", lambda model, setting: copies.append(setting.name) or model)
    with open_oracles(trained_digits(steps=1), ["default"], Lattice.of(data), batch=4) as (oracle,):
        oracle.logits(data.raw[:4])
        assert oracle.net is oracle.net
        oracle.logits(data.raw[:4])
    assert copies == ["default"]


@dataclasses.dataclass
class Counted:
    """A platform of this machine that counts how often it is asked, and how many processes it starts."""

    inner: object
    asked: int = 0
    started: int = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        self.asked += 1
        return self.inner.logits(images)

    def fresh(self, images: torch.Tensor) -> torch.Tensor:
        self.started += 1
        return self.inner.logits(images)


class Known:
    """A search that knows border inputs already."""

    def __init__(self, found: BorderSet) -> None:
        self.found = found

    def search(self, oracles, model, data, seed) -> Iterator[Found]:
        for item in self.found.inputs:
            yield Found(item.image, (0, 1), item.margin, 1)


def test_each_input_is_checked_twice_before_it_is_written_however_many_there_are(model, data, tmp_path: Path) -> None:
    known = border(model, data, platforms=("default", "bf16"), n=4, batch=4)
    with open_oracles(model, ("default", "bf16"), known.lattice, batch=4) as oracles:
        counted = [Counted(oracle) for oracle in oracles]
        demands = Demands(repeats=1, fresh=1)
        border(model, data, platforms=counted, n=4, search=Known(known), demands=demands, folder=tmp_path)
        assert [(item.asked, item.started) for item in counted] == [(8, 8)] * 2
        again = [Counted(oracle) for oracle in oracles]
        BorderSet.load(tmp_path).rechecked(again, demands)
        assert [(item.asked, item.started) for item in again] == [(1, 1)] * 2


@pytest.mark.parametrize("tag", ["int8-dynamic", "fp8-e4m3", "fp8-e3m4", "mxint8", "bm8", "bl8", "log8"])
def test_formats_of_accelerators_are_separated_from_fp32_and_called_emulated(model, data, tag: str) -> None:
    item = border(model, data, platforms=("default", tag), batch=1).inputs[0]
    assert item.pair == ("default", f"emulated:{tag}")
    assert item.labels["default"] != item.labels[f"emulated:{tag}"]


def test_a_platform_that_answers_by_its_neighbours_keeps_no_label_in_company(model, data) -> None:
    # int8-dynamic takes its range over the whole batch, so what stands beside an image moves its answer
    with open_oracles(model, ["int8-dynamic"], Lattice.of(data), batch=8) as (oracle,):
        alone, beside = data.raw[:1].expand(8, -1, -1, -1), data.raw[:1].repeat(8, 1, 1, 1)
        beside[1:] = 240
        assert not torch.equal(oracle.logits(alone)[0], oracle.logits(beside)[0])


@pytest.mark.slow
def test_an_emulated_format_is_the_same_in_a_fresh_process(model, data) -> None:
    with open_oracles(model, ["fp8-e4m3"], Lattice.of(data), batch=4) as (oracle,):
        assert torch.equal(oracle.logits(data.raw[:4]), oracle.fresh(data.raw[:4]))


def ranked(model: torch.nn.Module, data: Dataset, folder: Path, batch: int = 32) -> BorderSet:
    """Write border inputs of two settings as if two ranks had brought them."""
    ranks = [
        dataclasses.replace(LOCAL_PLATFORMS[name], name=f"{name}@{rank}")
        for rank, name in enumerate(("default", "bf16"))
    ]
    return border(model, data, platforms=ranks, batch=batch, folder=folder)


def test_what_ranks_wrote_is_checked_under_the_settings_they_had(model, data, tmp_path: Path) -> None:
    """Ranks are recorded as PLATFORM@RANK; here the setting of that name answers for each."""
    ranked(model, data, tmp_path)
    found = recheck(tmp_path, model)
    assert [item.recorded.platform for item in found] == ["default@0", "bf16@1"]
    assert all(item.holds for item in found)
    assert [item.recorded.platform for item in recheck(tmp_path, model, platforms=["bf16"])] == ["bf16@1"]
    with pytest.raises(InvalidConfig, match="says nothing about fp16"):
        recheck(tmp_path, model, platforms=["fp16"])


def test_what_ranks_wrote_is_asked_of_other_models_in_batches_of_the_recorded_size(model, data, tmp_path: Path) -> None:
    """What is recorded names a rank, and in batches of another size the platform would be another one."""
    kept = ranked(model, data, tmp_path, batch=4)
    sizes = list[int]()
    hook = model.register_forward_hook(lambda module, given, output: sizes.append(len(output)))
    found = transferred(kept, {"itself": model})
    hook.remove()
    assert set(sizes) == {4}
    assert sorted(found.truth) == [("itself", "bf16@1"), ("itself", "default@0")]
    assert found.ratio == 1.0
