"""Border prompts part two number formats at the next token, and are texts that can be typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from holdfast.data.text import text
from holdfast.errors import (
    DigestMismatch,
    InvalidConfig,
    UnreadableArtifact,
    UnsupportedVersion,
    VerificationError,
)
from holdfast.identification.border import (
    BorderPrompts,
    Demands,
    NearTies,
    TextService,
    border_text,
    open_text_oracles,
)
from holdfast.identification.border.prompt_set import checked_prompt
from holdfast.models import build_architecture, load


@pytest.fixture(scope="module")
def llama() -> torch.nn.Module:
    return build_architecture("llama:layers=1,tied=false", seed=0).eval()


@pytest.fixture(scope="module")
def windows() -> torch.Tensor:
    return torch.randint(3, 512, (8, 16), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("other", ["bf16", "fp16"])
def test_a_prompt_parts_two_number_formats(llama, windows, other: str, tmp_path: Path) -> None:
    found = border_text(llama, windows, platforms=("default", other), batch=2)
    prompt = found.prompts[0]
    first, second = prompt.continuations["default"], prompt.continuations[other]
    assert first[0] != second[0]
    assert [item.label for item in prompt.standings] == [first[0], second[0]]
    assert all(item.asked == item.agreed for item in prompt.standings)
    # the same from nothing but the tokens and the net
    with torch.no_grad():
        plain = llama(torch.tensor([prompt.tokens, prompt.tokens]))[0, -1]
    assert int(plain.argmax()) == first[0]
    with open_text_oracles(llama, ["default", other], batch=2) as oracles:
        assert found.save(tmp_path, oracles) == found == BorderPrompts.load(tmp_path)
    written = json.loads((tmp_path / "prompts.json").read_text())
    assert written["prompts"][0]["tokens"] == list(prompt.tokens)
    assert written["model"] == found.model_digest


def test_a_trained_model_is_parted_by_text_that_can_be_typed(shared_data: Path) -> None:
    folder = shared_data / "tiny-llama-260k"
    corpus = text(f"wikitext2:{shared_data / 'wikitext-2'}", tokenizer=folder / "tok512.bin")
    tokenizer = corpus.tokenizer
    found = border_text(
        load(folder), corpus.windows(32, 32), platforms=("default", "bf16"), tokenizer=tokenizer, batch=1
    )
    prompt = found.prompts[0]
    assert [1, *tokenizer.encode(prompt.text)] == list(prompt.tokens)
    assert prompt.continuations["default"][0] != prompt.continuations["bf16"][0]


def test_a_killed_search_goes_on_from_what_its_folder_holds(llama, windows, tmp_path: Path) -> None:
    """Each prompt is written when it is found, and one that is there is not looked for again."""
    whole = border_text(llama, windows, platforms=("default", "bf16"), n=3, batch=2, folder=tmp_path / "whole")
    assert BorderPrompts.load(tmp_path / "whole") == whole

    def killed(done: int, wanted: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    call = {"platforms": ("default", "bf16"), "n": 3, "batch": 2, "folder": tmp_path / "killed"}
    with pytest.raises(KeyboardInterrupt):
        border_text(llama, windows, **call, progress=killed)
    assert BorderPrompts.load(tmp_path / "killed").prompts == whole.prompts[:2]
    assert border_text(llama, windows, **call) == whole
    assert len(BorderPrompts.load(tmp_path / "killed").prompts) == 3
    with pytest.raises(InvalidConfig, match="another model, tokenizer or platforms"):
        border_text(llama, windows, platforms=("default", "fp16"), batch=2, folder=tmp_path / "killed")


def test_a_description_that_was_changed_is_noticed_and_one_of_before_is_read(llama, windows, tmp_path: Path) -> None:
    found = border_text(llama, windows, platforms=("default", "bf16"), batch=2, folder=tmp_path)
    place = tmp_path / "prompts.json"
    value = json.loads(place.read_text())
    value["prompts"][0]["text"] = "another"
    place.write_text(json.dumps(value))
    with pytest.raises(DigestMismatch, match="changed after it was written"):
        BorderPrompts.load(tmp_path)
    value["prompts"][0]["text"] = ""
    del value["digest"]
    place.write_text(json.dumps(value | {"type": "holdfast.border-prompts/v1"}))
    assert BorderPrompts.load(tmp_path) == found
    for wrong in ({"prompts": [{}]}, {"model": 7}, {"prompts": [value["prompts"][0] | {"tokens": ["a"]}]}):
        place.write_text(json.dumps(value | {"type": "holdfast.border-prompts/v1"} | wrong))
        with pytest.raises(UnreadableArtifact):
            BorderPrompts.load(tmp_path)
    place.write_text(json.dumps(value | {"type": "holdfast.border-prompts/v9"}))
    with pytest.raises(UnsupportedVersion):
        BorderPrompts.load(tmp_path)


def test_what_is_no_border_prompt_is_never_written(llama, windows, tmp_path: Path) -> None:
    found = border_text(llama, windows, platforms=("default", "bf16"), batch=2)
    with open_text_oracles(llama, ["default", "batch-1"]) as oracles, pytest.raises(VerificationError, match="token"):
        found.save(tmp_path / "out", oracles)
    assert not (tmp_path / "out").exists()


def test_a_service_that_answers_by_its_neighbours_is_refused() -> None:
    def steady(prompts: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot(torch.zeros(len(prompts), dtype=torch.int64), 9).float()

    def swayed(prompts: torch.Tensor) -> torch.Tensor:
        label = 1 + int(prompts.float().std(0).max() > 0)
        return torch.nn.functional.one_hot(torch.full((len(prompts),), label), 9).float()

    services = [TextService("a", steady, 4), TextService("b", swayed, 4)]
    with pytest.raises(VerificationError, match="neighbours"):
        checked_prompt(torch.tensor([1, 2, 3]), services, Demands(), 0)


def test_platforms_that_are_one_have_no_border_prompt(llama, windows) -> None:
    search = NearTies(places=4, steps=1)
    with pytest.raises(VerificationError, match="0 of 1 border prompts"):
        border_text(llama, windows, platforms=("default", "batch-1"), batch=1, search=search)


def test_calls_that_cannot_work_say_so(llama, windows) -> None:
    with pytest.raises(InvalidConfig, match="two platforms"):
        border_text(llama, windows, platforms=("default",))
    with pytest.raises(InvalidConfig, match="two platforms are called bf16"):
        border_text(llama, windows, platforms=("bf16", "bf16"))
    with pytest.raises(InvalidConfig, match="vocabulary"):
        border_text(torch.nn.Identity(), windows, platforms=("default", "bf16"))


@pytest.mark.slow
def test_a_worker_under_another_instruction_set_answers_prompts(llama, windows) -> None:
    with open_text_oracles(llama, ["default", "aten-default"], batch=2) as oracles:
        here, there = (oracle.logits(windows[:2]) for oracle in oracles)
        again = oracles[1].fresh(windows[:2])
    torch.testing.assert_close(here, there, rtol=1e-4, atol=1e-5)
    assert torch.equal(there, again)
