"""A server's head and platform from its answers, and only as far as the texts agree."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from tests.answered import collect, logits_of, stack

from holdfast.errors import InvalidConfig
from holdfast.identification.answers import Collection
from holdfast.identification.head import head_of
from holdfast.identification.sequential import Decision
from holdfast.identification.served import ServedAnswers, identify_answers


@pytest.mark.parametrize(
    ("head", "dtype"),
    [
        (torch.Tensor.float, "fp32"),
        (lambda x: x.half().float(), "fp16"),
        (lambda x: x.bfloat16().float(), "bf16"),
    ],
)
def test_the_head_shows_in_the_raw_numbers(tmp_path: Path, head, dtype: str) -> None:
    found = head_of(collect(tmp_path / "a", head))
    assert found.dtype == dtype
    assert found.confidence > 0.99
    rounded = head_of(collect(tmp_path / "b", head, places=4))
    assert not rounded.told
    assert rounded.rounding_text == "rounded to 4 decimals"


def test_a_stack_is_named_by_collections_of_the_same_prompts(tmp_path: Path) -> None:
    known = [(f"stack-{k}", collect(tmp_path / f"{k}", stack(k))) for k in range(4)]
    fresh = collect(tmp_path / "fresh", stack(2))
    answer = identify_answers(fresh, known)
    assert answer.label == "stack-2"
    assert answer.equal_fraction == 1.0
    others = [item for item in known if item[0] != "stack-2"]
    assert identify_answers(fresh, others).label == "unknown"


def test_only_the_common_beginning_of_two_texts_is_compared(tmp_path: Path) -> None:
    """After another token the questions differ: the same platform must not be blamed for the numbers that follow."""
    known = collect(tmp_path / "known")

    def forked(logits: torch.Tensor) -> torch.Tensor:
        moved = logits.clone()
        moved[2, moved[2].sort().indices[-2]] = moved[2].max() + 1e-3  # another token wins at position 2
        return torch.cat([moved[:3], torch.zeros_like(moved[3:])])

    other = collect(tmp_path / "other", forked)
    answer = identify_answers(other, [("known", known)])
    assert answer.label == "unknown"
    words = [int(str(item).split(" of ")[1].split()[0]) for item in answer.evidence if item.kind == "word equality"]
    assert words == [6 * (3 * 10 + 1)]  # three positions of ten numbers, and the fork itself


def test_a_reference_that_was_cut_short_still_serves(tmp_path: Path) -> None:
    known = [(f"stack-{k}", collect(tmp_path / f"{k}", stack(k))) for k in range(3)]
    journal = known[2][1].folder / "answers.jsonl"
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:4]))
    assert identify_answers(collect(tmp_path / "a", stack(2)), known).label == "stack-2"
    assert identify_answers(collect(tmp_path / "b", stack(1)), known).label == "stack-1"
    assert identify_answers(collect(tmp_path / "c", stack(7)), known).label == "unknown"


def test_which_tokens_were_sampled_is_no_evidence(tmp_path: Path) -> None:
    known = [(f"stack-{k}", collect(tmp_path / f"{k}", stack(k), temperature=2.0, seed=k)) for k in range(3)]
    answer = identify_answers(collect(tmp_path / "fresh", stack(1), temperature=2.0, seed=9), known)
    assert answer.label == "stack-1"
    assert answer.equal_fraction == 1.0


def test_collections_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    one = collect(tmp_path / "one")
    with pytest.raises(InvalidConfig, match="other prompts"):
        identify_answers(one, [("two", collect(tmp_path / "two", prompts=3))])
    with pytest.raises(InvalidConfig, match="temperature"):
        identify_answers(one, [("hot", collect(tmp_path / "hot", temperature=1.0))])
    with pytest.raises(InvalidConfig, match="one reference"):
        identify_answers(one, [])
    assert torch.isfinite(logits_of(0, 2)).all()


def described(folder: Path, **request: str) -> Collection:
    value = json.loads((folder / "collection.json").read_text())
    value["request"] |= request
    (folder / "collection.json").write_text(json.dumps(value))
    return Collection.load(folder)


def test_tokens_named_in_two_ways_and_other_models_are_refused(tmp_path: Path) -> None:
    """One server asked through two dialects would look like two platforms that share nothing."""
    seen = collect(tmp_path / "seen", stack(1))
    collect(tmp_path / "numbers", stack(1))
    lines = (tmp_path / "numbers" / "answers.jsonl").read_text()
    (tmp_path / "numbers" / "answers.jsonl").write_text(lines.replace('["t', '["token_id:'))
    numbers = described(tmp_path / "numbers", dialect="vllm")
    with pytest.raises(InvalidConfig, match=r"by number \(dialect vllm\), this one by text"):
        identify_answers(seen, [("numbers", numbers)])
    one, other = (described(collect(tmp_path / name, stack(1)).folder, model=name) for name in ("llama", "qwen"))
    with pytest.raises(InvalidConfig, match="asked of the model qwen, this one of llama"):
        identify_answers(one, [("other", other)])
    vendor = described(collect(tmp_path / "vendor", stack(1)).folder, model="Meta/Llama")
    assert identify_answers(one, [("vendor", vendor)]).label == "vendor"


def test_of_classes_that_explain_nothing_the_one_with_most_words_comes_first(tmp_path: Path) -> None:
    """A reference whose texts part at once has few words that differ; it is not nearer for that."""
    known = [(f"stack-{k}", collect(tmp_path / f"{k}", stack(k))) for k in range(2)]
    apart = collect(tmp_path / "apart", lambda logits: logits.flip(-1).contiguous())
    seen = collect(tmp_path / "seen", stack(0))
    lines = [(item.folder / "answers.jsonl").read_text().splitlines(keepends=True) for _, item in known]
    (seen.folder / "answers.jsonl").write_text("".join(lines[place % 2][place] for place in range(len(lines[0]))))
    found = identify_answers(Collection.load(seen.folder), [("apart", apart), *known])
    assert found.label == "unknown"
    assert found.runner_up is not None
    assert found.runner_up.labels[0].startswith("stack-")
    assert [item.labels for item in found.candidates][-1] == ("apart",)
    assert "bit-equal with stack-" in " ".join(map(str, found.evidence))


def test_collections_are_read_once_for_the_head_the_answer_and_the_stop(tmp_path: Path) -> None:
    known = [(f"stack-{k}", collect(tmp_path / f"{k}", stack(k))) for k in range(3)]
    seen = collect(tmp_path / "seen", stack(1))
    served = ServedAnswers(seen, known)
    for item in (seen, *(other for _, other in known)):
        (item.folder / "answers.jsonl").unlink()
    found, stopped = served.identify(), served.prompt_by_prompt(error=0.1)
    assert (found.label, found.grid) == ("stack-1", served.head.dtype)
    assert stopped.labels in (("stack-1",), ("undecided",))
    assert stopped.beside(found) == stopped


def test_a_stop_that_contradicts_the_whole_answer_decides_nothing(tmp_path: Path) -> None:
    known = [(f"stack-{k}", collect(tmp_path / f"{k}", stack(k))) for k in range(2)]
    answer = identify_answers(collect(tmp_path / "seen", stack(1)), known)
    stopped = Decision(("stack-1",), 3, 0.99, "stack-0")
    assert stopped.beside(answer) == stopped
    for labels in (("stack-0",), ("unknown",)):
        assert dataclasses.replace(stopped, labels=labels).beside(answer).labels == ("undecided",)
    left_open = dataclasses.replace(answer, labels=("stack-0", "unknown"))
    assert dataclasses.replace(stopped, labels=("unknown",)).beside(left_open).labels == ("undecided",)
    assert dataclasses.replace(stopped, labels=("unknown",)).beside(
        dataclasses.replace(answer, labels=("unknown",))
    ).labels == ("unknown",)
