"""A sweep keeps every platform as it goes: what is killed goes on, and what cannot run is named."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from holdfast.errors import InvalidConfig, MissingExtra, Unavailable, UnknownName
from holdfast.execution import Trace
from holdfast.identification import LOCAL_PLATFORMS, LocalPlatform
from holdfast.identification.library import Library, Machine
from holdfast.identification.library import sweep as module
from holdfast.identification.library.sweep import SLOW, chosen_platforms, probe_cases, require_answers, sweep
from holdfast.identification.platforms.process import Case
from holdfast.identification.platforms.run import trace_here
from holdfast.identification.probe_nets import probe_inputs, probe_net

NAMES = ("default", "batch-1", "onednn-off", "bf16")


def cases(*names: str) -> list[Case]:
    return [Case(name, probe_net(name), probe_inputs(4)) for name in names or ("mlp", "cnn")]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[str, ...]]]:
    """What was run, with the processes replaced by this one."""
    calls: list[tuple[str, tuple[str, ...]]] = []

    def here(platform: LocalPlatform, given: Sequence[Case]) -> dict[str, Trace | Unavailable]:
        calls.append((platform.name, tuple(case.name for case in given)))
        if platform.runtime == "onnxruntime":
            return {case.name: MissingExtra("it is not installed", hint="pip install it") for case in given}
        found: dict[str, Trace | Unavailable] = {c.name: trace_here(platform, c.model, c.probes) for c in given}
        if platform.name == "bf16" and "cnn" in found:
            found["cnn"] = Unavailable("no bf16 convolution here")
        return found

    monkeypatch.setattr(module, "traces_in_own_process", here)
    return calls


def test_a_killed_sweep_goes_on_where_it_was(tmp_path, started) -> None:
    """It is killed in its third platform, after two were written; the same call runs only what is missing."""
    library, wanted = Library(), chosen_platforms(NAMES)

    def save_until_killed() -> None:
        if len(started) == 3:
            raise KeyboardInterrupt
        library.save(tmp_path)

    with pytest.raises(KeyboardInterrupt):
        sweep(library, cases(), wanted, save=save_until_killed)
    found = Library.load(tmp_path)
    assert set(found.labels().values()) == {"default", "batch-1"}
    del started[:]
    swept = sweep(found, cases(), wanted)
    assert swept.kept == ("default", "batch-1")
    assert [name for name, _ in started] == ["onednn-off", "bf16"]


def test_a_new_model_runs_on_what_is_there_and_old_answers_stay(started) -> None:
    library = Library()
    sweep(library, cases("mlp"), chosen_platforms(["default"]))
    before = library.entries[0].outputs["mlp"]
    sweep(library, cases("mlp", "cnn"), chosen_platforms(["default"]))
    assert started == [("default", ("mlp",)), ("default", ("cnn",))]
    assert library.entries[0].outputs["mlp"] == before
    assert set(library.entries[0].outputs) == {"mlp", "cnn"}


def test_knobs_of_a_cpu_fall_into_the_classes_that_they_are(started) -> None:
    """What takes the same kernels is one class, and every way to add in attention is one of its own."""
    names = ("default", "deterministic", "sdpa-flash", "sdpa-math", "batch-1", "autocast-bf16", "autocast-fp16")
    half = ("bf16", "bf16-sdpa-flash", "bf16-sdpa-math", "bf16-sdpa-math-reduced")
    library = Library()
    sweep(library, cases("mlp", "transformer"), chosen_platforms([*names, *half]))
    assert {item.labels for item in library.classes()} == {
        ("default", "deterministic", "sdpa-flash"),
        ("sdpa-math",),
        ("batch-1",),
        ("autocast-bf16",),
        ("autocast-fp16",),
        ("bf16", "bf16-sdpa-flash"),
        ("bf16-sdpa-math",),
        ("bf16-sdpa-math-reduced",),
    }
    assert any(set(half) <= set(item.labels) for item in library.classes("mlp"))  # which has no attention
    described = {entry.platform: entry.described.get("set") for entry in library.entries}
    assert (described["sdpa-math"], described["default"]) == ({"attention": "math"}, None)


def test_what_cannot_run_says_why_and_is_tried_again(started) -> None:
    library = Library()
    swept = sweep(library, cases(), chosen_platforms(["ort", "inductor", "bf16"]))
    assert swept.skipped == ("inductor", "ort")
    reasons = {(item.platform, item.subject): item.reason for item in library.skipped}
    assert reasons == {
        ("ort", ""): "it is not installed (pip install it)",
        ("inductor", ""): SLOW,
        ("bf16", "cnn"): "no bf16 convolution here",
    }
    del started[:]
    sweep(library, cases(), chosen_platforms(["ort", "bf16"]))
    assert started == [("ort", ("mlp", "cnn"))]


def test_a_platform_that_answered_before_is_not_one_that_runs_for_nobody(started, tmp_path) -> None:
    """It is refused what it does not take, once, and not asked for that again."""
    library = Library()
    sweep(library, cases("mlp"), chosen_platforms(["bf16"]))
    assert sweep(library, cases("mlp", "cnn"), chosen_platforms(["bf16"])).skipped == ("bf16",)
    assert [(item.subject, item.reason) for item in library.skipped] == [("cnn", "no bf16 convolution here")]
    del started[:]
    assert sweep(library, cases("mlp", "cnn"), chosen_platforms(["bf16"])).kept == ("bf16",)
    assert not started


def test_a_slow_platform_that_answered_others_is_told_to_be_slow_and_not_to_run_for_nobody(
    started, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LOCAL_PLATFORMS, "sluggish", LocalPlatform("sluggish", slow=True))
    library = Library()
    sweep(library, cases("mlp"), chosen_platforms(["sluggish"]), named=["sluggish"])
    swept = sweep(library, cases("cnn"), chosen_platforms(["slug*"]), named=["slug*"])
    assert swept.skipped == ("sluggish",)
    assert not library.skipped
    with pytest.raises(InvalidConfig, match="takes minutes"):
        require_answers(library, swept, ["cnn"])


def test_slow_platforms_run_when_they_are_named(started, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LOCAL_PLATFORMS, "sluggish", LocalPlatform("sluggish", slow=True))
    library = Library()
    assert sweep(library, cases("mlp"), chosen_platforms(["sluggish"]), named=["sluggish"]).ran == ("sluggish",)


def test_patterns_choose_and_a_pattern_without_a_match_is_refused() -> None:
    assert {item.name for item in chosen_platforms(["batch-*"])} == {f"batch-{size}" for size in (1, 2, 3, 8, 16)}
    assert [item.name for item in chosen_platforms(["batch-*"], ["batch-[128]*"])] == ["batch-3"]
    assert len(chosen_platforms()) == len(LOCAL_PLATFORMS)
    with pytest.raises(UnknownName):
        chosen_platforms([], ["ortt*"])


def test_a_name_of_another_model_or_of_other_probes_is_refused_before_anything_runs(started) -> None:
    library = Library()
    sweep(library, cases("mlp"), chosen_platforms(["default"]))
    del started[:]
    with pytest.raises(InvalidConfig, match="another model"):
        sweep(library, [Case("mlp", probe_net("cnn"), probe_inputs(4))], chosen_platforms(["default"]))
    with pytest.raises(InvalidConfig, match="other probes"):
        sweep(library, [Case("mlp", probe_net("mlp"), probe_inputs(5))], chosen_platforms(["default"]))
    with pytest.raises(InvalidConfig, match="names of their own"):
        sweep(library, cases("mlp", "mlp"), chosen_platforms(["default"]))
    assert not started


def test_another_version_of_a_runtime_is_another_machine(started, monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library()
    sweep(library, cases("mlp"), chosen_platforms(["default"]))
    newer = Machine("cpu", (), "Linux", {"torch": "99"})
    monkeypatch.setattr(module, "machine_of", lambda platform: newer)
    assert sweep(library, cases("mlp"), chosen_platforms(["default"])).ran == ("default",)
    assert len(library.entries) == 2
    assert f"default@{newer.name}" in library.labels().values()


def test_the_cases_of_the_package_are_its_nets() -> None:
    found = probe_cases(2)
    assert {case.name for case in found} >= {"mlp", "cnn", "resnet", "mobilenet", "transformer"}
    assert all(len(case.probes) == 2 for case in found)
