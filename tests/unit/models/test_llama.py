"""LLaMA: what Hugging Face computes, the published greedy text, and configurations that are refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from holdfast.data import read_tokenizer
from holdfast.errors import InvalidConfig, UnreadableArtifact, UnsupportedVersion
from holdfast.models import build_architecture, load, manifest_of, save, sites
from holdfast.models.hugging_face import architecture_of

CONFIG = {
    "model_type": "llama", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 40,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 24, "rms_norm_eps": 1e-6,
    "rope_theta": 5000.0, "tie_word_embeddings": False,
}  # fmt: skip


@pytest.mark.parametrize("tied", [False, True])
def test_against_transformers(tied: bool, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="the reference is pip install 'holdfast[hf]'")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = transformers.LlamaConfig(**(CONFIG | {"tie_word_embeddings": tied, "initializer_range": 0.3}))
        theirs = transformers.LlamaForCausalLM(config).eval()
    theirs.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | {"tie_word_embeddings": tied}))
    ours = load(tmp_path)
    tokens = torch.randint(0, 40, (3, 24), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens), theirs(tokens).logits, rtol=1e-4, atol=1e-4)


def test_a_later_token_changes_nothing_before_it() -> None:
    model = build_architecture("llama:layers=2").eval()
    tokens = torch.randint(0, 512, (1, 12), generator=torch.Generator().manual_seed(1))
    other = tokens.clone()
    other[0, 8] += 1
    with torch.no_grad():
        before, after = model(tokens), model(other % 512)
    torch.testing.assert_close(before[:, :8], after[:, :8])
    assert not torch.allclose(before[:, 8:], after[:, 8:])


def test_the_trained_model_says_what_it_should(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "tiny-llama-260k"
    model, tokens = load(folder), torch.tensor([[1]])
    with torch.no_grad():
        for _ in range(40):
            tokens = torch.cat((tokens, model(tokens)[:, -1:].argmax(-1)), 1)
    said = read_tokenizer(folder / "tok512.bin").decode(tokens[0].tolist())
    assert said.strip(' "').startswith("Echoes of vectors unfold, a gentle hum of precision, as I sense the nodes,")
    save(model, tmp_path / "m")
    assert manifest_of(load(tmp_path / "m")).digest == manifest_of(model).digest


def test_every_parameter_is_a_site_of_its_published_name() -> None:
    names = {site.name for site in sites(build_architecture("llama:layers=1"))}
    assert "model.layers.0.self_attn.q_proj.weight" in names
    assert "model.embed_tokens.weight" in names
    assert "lm_head.weight" not in names


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"model_type": "gpt2"}, UnsupportedVersion, "'gpt2'"),
        ({"rope_scaling": {"type": "linear"}}, UnsupportedVersion, "rope_scaling"),
        ({"hidden_act": "gelu"}, UnsupportedVersion, "hidden_act"),
        ({"hidden_size": "many"}, UnreadableArtifact, "hidden_size"),
        ({"num_attention_heads": None}, UnreadableArtifact, "num_attention_heads"),
    ],
)
def test_other_configurations_are_refused(change: dict[str, object], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        architecture_of(json.dumps(CONFIG | change).encode(), "config.json")


def test_sizes_that_do_not_divide() -> None:
    with pytest.raises(InvalidConfig, match="do not divide"):
        build_architecture("llama:dim=30,heads=4")
    with pytest.raises(InvalidConfig, match="do not divide"):
        build_architecture("llama:heads=4,groups=3")


@pytest.mark.parametrize("change", [{"hidden_size": 2**40}, {"num_hidden_layers": 10**9}, {"vocab_size": 41}])
def test_a_configuration_of_another_size_allocates_nothing(change: dict[str, int], tmp_path: Path) -> None:
    model = build_architecture("llama:dim=32,inner=48,layers=2,heads=4,groups=2,vocabulary=40,context=24,tied=false")
    save(model, tmp_path)
    (tmp_path / "model.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    assert manifest_of(load(tmp_path)).digest != manifest_of(model).digest  # the same weights, imported
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | change))
    with pytest.raises(UnreadableArtifact, match="parameters, the file beside it holds"):
        load(tmp_path)
