"""A folder of Hugging Face's transformers, read without that library: ``config.json`` to an architecture of ours."""

from __future__ import annotations

from typing import Any

from holdfast._registry import parse_spec
from holdfast.errors import UnreadableArtifact, UnsupportedVersion
from holdfast.evidence import canonical

CONFIG = "config.json"
_FIELDS = {  # ours -> theirs
    "dim": "hidden_size",
    "inner": "intermediate_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "vocabulary": "vocab_size",
    "context": "max_position_embeddings",
    "epsilon": "rms_norm_eps",
}
_PLAIN = {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "rope_scaling": None}


def architecture_of(data: bytes, what: str) -> str:
    """Return the specification, ``llama:dim=64,...``, for the bytes of a ``config.json``.

    Raises:
        UnsupportedVersion: another kind of model, or a variant that our architecture does not have; it is named.
        UnreadableArtifact: not JSON, or a key is missing or no number.
    """
    value = canonical.loads(data, what=what)
    if not isinstance(value, dict) or value.get("model_type") != "llama":
        kind = value.get("model_type") if isinstance(value, dict) else None
        raise UnsupportedVersion(f"{what} describes a model of type {kind!r}", hint="pass --arch, or convert to llama")
    for key, plain in _PLAIN.items():
        if value.get(key, plain) != plain:
            raise UnsupportedVersion(f"{key} = {value[key]!r} in {what} is not supported")
    options = {ours: _number(value, theirs, what) for ours, theirs in _FIELDS.items()}
    defaults = {"num_key_value_heads": value[_FIELDS["heads"]], "rope_theta": 10000.0}
    options["groups"] = _number(defaults | value, "num_key_value_heads", what)
    options["theta"] = _number(defaults | value, "rope_theta", what)
    tied = str(bool(value.get("tie_word_embeddings", False))).lower()
    return "llama:" + ",".join(f"{key}={item!r}" for key, item in options.items()) + f",tied={tied}"


def require_size(spec: str, found: int, what: str) -> None:
    """Refuse an architecture of another size before anything is allocated for it.

    Raises:
        UnreadableArtifact: ``spec``, from :func:`architecture_of`, does not have ``found`` parameters.
    """
    sizes = {key: float(value) for key, value in parse_spec(spec)[1].items() if key != "tied"}
    dim, heads = sizes["dim"], max(1.0, sizes["heads"])
    attention = 2 * dim * dim + 2 * dim * sizes["groups"] * (dim // heads)
    blocks = sizes["layers"] * (attention + 3 * dim * sizes["inner"] + 2 * dim)
    tables = sizes["vocabulary"] * dim * (1 if spec.endswith("tied=true") else 2)
    if tables + blocks + dim != found:
        raise UnreadableArtifact(
            f"{what} describes {tables + blocks + dim:,.0f} parameters, the file beside it holds {found:,}"
        )


def _number(value: dict[str, Any], key: str, what: str) -> int | float:
    found = value.get(key)
    if isinstance(found, bool) or not isinstance(found, int | float):
        raise UnreadableArtifact(f"{what}: {key} is {found!r}, not a number")
    return found
