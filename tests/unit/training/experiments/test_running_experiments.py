"""Running experiments: a tiny one end to end, resuming, and the comparison with what is published."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from holdfast.cli import main
from holdfast.data import dataset
from holdfast.errors import InvalidConfig, MissingDevice, UsageError
from holdfast.evidence.record import Record
from holdfast.execution import robust_error
from holdfast.faults import BitErrors
from holdfast.models import build_architecture, card, load
from holdfast.models.whitening import whitening_of
from holdfast.training.experiments import arms, comparison, read_experiment, run_experiment
from holdfast.training.whitening import whiten

TEXT = """
name = "tiny"
title = "A tiny experiment"
source = "an imagined paper"
architecture = "digits-cnn:channels=8"
augment = ["cutout:size=2"]
rates = [0.001, 0.05]
chips = 3
test_images = 100

[data]
name = "digits"

[schedule]
epochs = 5
lr = 0.1
batch_size = 32

[[arms]]
name = "normal"
format = "rquant8"
recipe = { name = "standard" }
published = { clean = 50, robust = [4.6, nan] }

[[arms]]
name = "robust"
format = "rquant8"
recipe = { name = "random-bit-error", rate = 0.01, clip = 0.5, start_loss = 9.0 }
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("experiment") / "tiny.toml"
    path.write_text(TEXT)
    return path


@pytest.fixture(scope="module")
def folder(file) -> Path:
    out = file.parent / "out"
    assert main(["experiment", "run", str(file), "-o", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def results(folder) -> dict:
    return json.loads((folder / "results.json").read_text())


def test_one_command_trains_measures_and_compares(folder, results):
    assert [arm["subject"]["name"] for arm in results["arms"]] == ["normal", "robust"]
    normal, robust = (Record.from_bytes((folder / name / "record.json").read_bytes()) for name in ("normal", "robust"))
    for record in (normal, robust):
        assert record.measured["clean-error"].value < 0.4
        assert record.measured["clean-error"].n == 500
        assert record.measured["robust-error@p=0.001"].n == 3
        for rate in ("0.001", "0.05"):
            after, either = (record.measured[f"robust-error{key}@p={rate}"] for key in ("", "-or-clean"))
            assert either.value >= after.value
        assert record.measured["robust-error@p=0.05"].value > record.measured["robust-error@p=0.001"].value
    assert robust.measured["robust-error@p=0.05"].value < normal.measured["robust-error@p=0.05"].value


def test_published_values_stand_beside_the_measured_ones(folder, results):
    normal, robust = results["arms"]
    beside = normal["comparison"]
    assert beside.keys() == {"clean-error", "robust-error@p=0.001"}  # nothing is printed for the other rate
    clean, hit = beside["clean-error"], beside["robust-error@p=0.001"]
    assert clean["published"] == 0.5
    assert clean["difference"] == pytest.approx(normal["measured"]["clean-error"]["value"] - 0.5, abs=1e-6)
    own = normal["measured"]["robust-error-or-clean@p=0.001"]
    assert hit["difference"] == pytest.approx(own["value"] - 0.046, abs=1e-6)
    assert hit["inside"] == (own["low"] <= 0.046 <= own["high"])
    assert robust["comparison"] == {}
    table = (folder / "table.md").read_text()
    line = next(line for line in table.splitlines() if line.startswith("| normal | clean"))
    measured = 100 * normal["measured"]["clean-error"]["value"]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[2] == f"{measured:.2f}"
    assert cells[5:] == ["50.00", f"{measured - 50:+.2f}"]
    assert "an imagined paper" in table


def test_the_stored_model_gives_the_reported_errors(folder, results):
    model = load(folder / "robust" / "model")
    test = dataset("digits").take(100)
    error = robust_error(model, test, BitErrors(rate=0.05), chips=3, seed=0)
    assert results["arms"][1]["measured"]["robust-error@p=0.05"]["value"] == error.mean.value
    assert card(model).lenses.keys() == dict(model.named_parameters()).keys()


def test_the_lineage_of_every_model_is_signed_where_a_key_is_given(file, tmp_path, capsys):
    assert main(["keygen", str(tmp_path / "lab")]) == 0
    words = ["experiment", "run", str(file), "-o", str(tmp_path / "out"), "--only", "normal", "--epochs", "1"]
    assert main([*words, "--key", f"file:{tmp_path / 'lab.pem'}"]) == 0
    capsys.readouterr()
    model = next(path.parent for path in (tmp_path / "out").rglob("model.json"))
    assert main(["lineage", "show", str(model), "--trust", str(tmp_path / "lab.pub")]) == 0
    told = capsys.readouterr().out
    assert "quantize" in told
    assert (model / "lineage").is_dir()
    assert all(path.name.endswith(".bundle.json") for path in (model / "lineage").iterdir())


@pytest.mark.parametrize("device", ["gpu", "", "meta", "cuda:99"])
def test_a_device_that_is_not_here_is_one_clear_error(file, tmp_path, capsys, device):
    for more in ([], ["--graphs"]):
        words = ["experiment", "run", str(file), "-o", str(tmp_path / "out"), "--device", device, *more]
        assert main(words) == (3 if device == "cuda:99" else 2)
        seen = capsys.readouterr().err
        assert f"there is no device '{device}'" in seen
        assert "Traceback" not in seen
        assert not (tmp_path / "out").exists()


def test_the_same_call_again_does_nothing_twice(file, folder, monkeypatch, capsys):
    monkeypatch.setattr(arms, "train", None)
    monkeypatch.setattr(arms, "robust_error", None)
    before = (folder / "results.json").read_bytes()
    assert main(["experiment", "run", str(file), "-o", str(folder), "--json"]) == 0
    assert (folder / "results.json").read_bytes() == before
    assert json.loads(capsys.readouterr().out) == json.loads(before)


def test_an_interrupted_run_goes_on_where_it_stopped(file, tmp_path, monkeypatch):
    experiment = read_experiment(file).only(["normal"]).with_epochs(1)
    whole = run_experiment(experiment, tmp_path / "whole")
    real, calls = arms.robust_error, []

    def interrupted(*given, **options):
        if calls:
            raise KeyboardInterrupt
        calls.append(given)
        return real(*given, **options)

    with monkeypatch.context() as patch:
        patch.setattr(arms, "robust_error", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_experiment(experiment, tmp_path / "parts")
    monkeypatch.setattr(arms, "train", None)  # the model is there already
    assert run_experiment(experiment, tmp_path / "parts") == whole


def test_a_folder_of_another_run_is_refused(file, folder):
    with pytest.raises(InvalidConfig, match="another schedule"):
        run_experiment(read_experiment(file).with_epochs(3), folder)
    with pytest.raises(InvalidConfig, match="another seed"):
        run_experiment(read_experiment(file), folder, seed=1)


def test_an_arm_that_diverges_is_named_with_its_batch(file, tmp_path, capsys):
    wild = tmp_path / "wild.toml"
    wild.write_text(file.read_text().replace('name = "normal"', 'name = "wild"').replace("lr = 0.1", "lr = 1e30"))
    assert main(["experiment", "run", str(wild), "-o", str(tmp_path / "out"), "--only", "wild", "--epochs", "1"]) == 2
    said = capsys.readouterr().err
    assert "wild did not train" in said
    assert "epoch 0, batch" in said
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["arms"] == []
    assert "batch" in results["diverged"]["wild"]
    assert "wild did not train" in (tmp_path / "out" / "table.md").read_text()


def test_other_arms_run_after_one_that_diverged(file, tmp_path, monkeypatch):
    real = arms.train

    def train(model, data, recipe, **options):
        if recipe.clip is None:
            raise UsageError("the loss became nan in epoch 0, batch 3")
        return real(model, data, recipe, **options)

    monkeypatch.setattr(arms, "train", train)
    with pytest.raises(UsageError, match="normal did not train: the loss became nan") as caught:
        run_experiment(read_experiment(file).with_epochs(1), tmp_path)
    assert "1 of 2 arms are done" in caught.value.hint
    results = json.loads((tmp_path / "results.json").read_text())
    assert [arm["subject"]["name"] for arm in results["arms"]] == ["robust"]


def test_a_data_set_of_files_needs_its_folder(repository, tmp_path, capsys):
    grid = repository / "experiments" / "mlsys" / "cifar10.toml"
    assert main(["experiment", "run", str(grid), "-o", str(tmp_path)]) == 2
    assert "--data FOLDER" in capsys.readouterr().err


def test_a_device_that_is_not_there_is_said_at_once(file, tmp_path):
    with pytest.raises(MissingDevice, match="cuda:77"):
        run_experiment(read_experiment(file), tmp_path, device="cuda:77")
    assert list(tmp_path.iterdir()) == []


def test_a_device_holds_data_model_and_codes_and_gives_the_same_arm(file, tmp_path):
    """``cpu:0`` takes the way of any other device; its larger batches may move a last bit of an output."""
    experiment = read_experiment(file).only(["robust"]).with_epochs(2)
    here, there = (
        run_experiment(experiment, tmp_path / device, device=device)["arms"][0] for device in ("cpu", "cpu:0")
    )
    assert there["procedure"]["device"] == "cpu:0"
    one, other = (load(tmp_path / device / "robust" / "model").state_dict() for device in ("cpu", "cpu:0"))
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    for name, value in here["measured"].items():
        assert there["measured"][name]["value"] == pytest.approx(value["value"], abs=0.02), name


def test_precision_is_part_of_what_a_folder_holds(file, tmp_path):
    experiment = read_experiment(file).only(["normal"]).with_epochs(1)
    run_experiment(experiment, tmp_path, precision="bfloat16")
    assert json.loads((tmp_path / "normal" / "plan.json").read_text())["device"] == "cpu, bfloat16"
    with pytest.raises(InvalidConfig, match="another device"):
        run_experiment(experiment, tmp_path)


def test_only_and_epochs_reach_the_run(file, tmp_path, capsys):
    run = ["experiment", "run", str(file), "-o", str(tmp_path)]
    assert main([*run, "--only", "norm*", "--epochs", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [arm["procedure"]["schedule"]["epochs"] for arm in found["arms"]] == [1]
    assert main([*run, "--only", "nrmal"]) == 2
    assert "did you mean normal" in capsys.readouterr().err


def test_show_lists_arms_without_running_them(file, capsys):
    assert main(["experiment", "show", str(file), "--json"]) == 0
    seen = capsys.readouterr()
    assert "2 arms" in seen.err
    published = json.loads(seen.out)["published"]
    assert published["normal"]["values"] == {"clean-error": 0.5, "robust-error@p=0.001": 0.046}
    assert published["robust"] is None


def test_whitening_is_fitted_to_the_training_images(shared_data):
    data = dataset(f"mnist:{shared_data / 'mnist'}", split="train", mean=(0.0,), std=(1.0,)).take(500)
    model = build_architecture("wide-resnet:depth=10,widen=1,channels_in=1,size=28,whitening=true")
    white = whitening_of(whiten(model, data))(data.all()[0])
    assert float(white.mean()) == pytest.approx(0, abs=1e-4)
    assert float(white.std(correction=0)) == pytest.approx(1, abs=1e-4)
    assert float(whitening_of(model).std) == 1  # the model itself is unchanged
    assert card(whiten(model, data)).lineage[-1].kind == "whiten"


def test_whitening_refuses_data_that_is_normalised_and_nets_without_the_layer():
    train = dataset("digits", split="train")
    with pytest.raises(InvalidConfig, match="normalised before") as caught:
        whiten(build_architecture("wide-resnet:depth=10,widen=1,channels_in=1,size=8,whitening=true"), train)
    assert "mean=0" in caught.value.hint
    with pytest.raises(InvalidConfig, match="no whitening layer"):
        whiten(build_architecture("digits-cnn"), train)


def test_comparison_of_nothing_published_is_empty(results):
    record = Record.from_json({key: value for key, value in results["arms"][1].items() if key != "comparison"})
    assert comparison(record) == {}
