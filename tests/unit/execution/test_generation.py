"""Faults while text is made: a step is a pass, a cache remembers, and nothing before the step changes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from holdfast.errors import InvalidConfig, NoSuchSite
from holdfast.execution import continue_greedily, generate, inject_generation
from holdfast.execution.generation import step_population
from holdfast.faults import BitFlip, Corruption, Timed, TransientErrors
from holdfast.models import KeyValueCache, build_architecture
from holdfast.numerics import bits

COUNT = 8


@pytest.fixture(scope="module")
def llama() -> nn.Module:
    model = build_architecture("llama:dim=32,inner=48,layers=2,heads=4,groups=2,vocabulary=64", seed=0).eval()
    with torch.no_grad():  # random weights of the usual size repeat one token whatever they read
        for name, value in model.named_parameters():
            if "norm" not in name:
                value.mul_(12)
    return model


@pytest.fixture(scope="module")
def prompts() -> Tensor:
    return torch.randint(64, (3, 5), generator=torch.Generator().manual_seed(0))


def test_a_cache_changes_no_token(llama: nn.Module, prompts: Tensor) -> None:
    made = generate(llama, prompts, COUNT)
    assert torch.equal(made, continue_greedily(llama, prompts, COUNT, vocabulary=64))
    assert len(set(made.flatten().tolist())) > 4  # a text, not one token


def test_a_cache_holds_what_attention_needs(llama: nn.Module, prompts: Tensor) -> None:
    cache = KeyValueCache()
    with torch.no_grad():
        whole = llama(prompts)
        parts = [llama(part, cache) for part in prompts.split([3, 1, 1], 1)]
    assert torch.allclose(torch.cat(parts, 1), whole, atol=1e-4)
    assert cache.length(0) == cache.length(1) == 5
    assert cache.keys[0].shape == (3, 2, 5, 8)


@pytest.mark.parametrize(
    "at", ["activations:model.layers.0.mlp.down_proj", "cache:layers.0.*", "weights:**.down_proj.weight"]
)
@pytest.mark.parametrize("step", [1, 3])
def test_tokens_before_the_step_stay(llama: nn.Module, prompts: Tensor, at: str, step: int) -> None:
    clean, fault = generate(llama, prompts, COUNT), Corruption(where="row", what="(set:value=50)")
    with inject_generation(llama, fault, prompt=prompts[0], at=at, step=step):
        faulty = generate(llama, prompts, COUNT)
    assert torch.equal(faulty[:, :step], clean[:, :step])
    assert not torch.equal(faulty, clean)
    assert torch.equal(generate(llama, prompts, COUNT), clean)


def test_a_fault_in_the_prompt_strikes_the_first_token(llama: nn.Module, prompts: Tensor) -> None:
    clean, fault = generate(llama, prompts, 1), Corruption(where="channel", what="(inf:sign=random)")
    with inject_generation(llama, fault, prompt=prompts[0], at="activations:model.norm", step=0):
        assert not torch.equal(generate(llama, prompts, 1), clean)


def test_the_population_is_that_of_the_step(llama: nn.Module, prompts: Tensor) -> None:
    def shapes(step: int, at: str) -> set[tuple[int, ...]]:
        return {site.shape for site in step_population(llama, at, prompts[0], step).sites}

    assert shapes(0, "activations:model.norm") == {(5, 32)}
    assert shapes(2, "activations:model.norm") == {(1, 32)}
    assert shapes(2, "activations:model.layers.0.self_attn/softmax") == {(4, 1, 7)}  # five of the prompt, two since
    assert shapes(2, "cache") == {(2, 6, 8)}  # what the step finds
    with pytest.raises(NoSuchSite, match="cache"):
        step_population(llama, "cache", prompts[0], 0)


def test_one_struck_cell_of_the_cache_is_struck_for_good(llama: nn.Module, prompts: Tensor) -> None:
    caches: list[Tensor] = []

    def look(_: nn.Module, args: tuple[object, ...], kwargs: dict[str, object], __: object) -> None:
        caches.append(kwargs["cache"].keys[1].clone())

    handle = llama.register_forward_hook(look, with_kwargs=True)
    generate(llama, prompts, 5)
    with inject_generation(llama, BitFlip(), prompt=prompts[0], at="cache:layers.1.keys", step=2, seed=4):
        generate(llama, prompts, 5)
    handle.remove()
    clean, faulty = caches[:5], caches[-5:]  # between them the population was found
    assert all(bits.bit_equal(a, b) for a, b in zip(clean[:2], faulty[:2], strict=True))
    differs = [
        (bits.int_view(a[:, :, :6]) != bits.int_view(b[:, :, :6])).sum()
        for a, b in zip(clean[2:], faulty[2:], strict=True)
    ]
    assert differs == [3, 3, 3]  # one element of every sample, in this step and all later ones


@pytest.mark.slow
def test_models_of_transformers_make_the_same_text_and_take_the_same_faults(prompts: Tensor) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4
    )
    model = transformers.LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "norm" not in name:
                value.mul_(12)
    options = {"max_new_tokens": COUNT, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    clean = model.generate(prompts, attention_mask=torch.ones_like(prompts), **options)[:, 5:]
    assert torch.equal(generate(model, prompts, COUNT), clean)
    fault = Corruption(where="row", what="(set:value=50)")
    for at in ("cache:layers.0.values", "activations:model.layers.1.mlp.down_proj", "internals:**/scores"):
        with inject_generation(model, fault, prompt=prompts[0], at=at, step=3):
            faulty = model.generate(prompts, attention_mask=torch.ones_like(prompts), **options)[:, 5:]
        assert torch.equal(faulty[:, :3], clean[:, :3])
        if not at.startswith("internals"):
            assert not torch.equal(faulty, clean)


def test_reads_of_weights_fail_in_a_window(llama: nn.Module, prompts: Tensor) -> None:
    clean = generate(llama, prompts, COUNT)
    law = TransientErrors(rate=0.01)
    with inject_generation(llama, law, prompt=prompts[0], at="weights", step=2, last=3):
        faulty = generate(llama, prompts, COUNT)
    assert torch.equal(faulty[:, :2], clean[:, :2])
    assert not torch.equal(faulty, clean)


def test_calls_that_make_no_sense_are_refused(llama: nn.Module, prompts: Tensor) -> None:
    def refused(match: str, fault: object = BitFlip(), **options: object) -> None:
        call = {"prompt": prompts[0], "at": "weights", "step": 1} | options
        with pytest.raises(InvalidConfig, match=match), inject_generation(llama, fault, **call):
            pass

    refused("no steps", step=-1)
    refused("no steps", step=3, last=2)
    refused("strikes a cache", at="cache", last=2)
    refused("no passes", fault=Timed(fault=BitFlip()))
    with pytest.raises(InvalidConfig, match="takes no cache"):
        generate(nn.Embedding(4, 4), prompts, 1)
    with pytest.raises(InvalidConfig, match="one token or more"):
        generate(llama, prompts, 0)


def test_a_shape_that_is_not_the_step_s_is_refused(llama: nn.Module, prompts: Tensor) -> None:
    law = Corruption()
    at = "activations:model.layers.0.self_attn/softmax"
    with (
        pytest.raises(InvalidConfig, match="not samples of"),
        inject_generation(llama, law, prompt=prompts[0], at=at, step=2, last=3),
    ):
        generate(llama, prompts, 5)  # attention grows with the text
    with (
        pytest.raises(NoSuchSite, match="the pass has no cache"),
        inject_generation(llama, law, prompt=prompts[0], at="cache", step=1),
    ):
        continue_greedily(llama, prompts, 3, vocabulary=64)
