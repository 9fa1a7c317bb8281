"""``from_pretrained`` of transformers over a signed folder: the library sees verified, sealed copies and nothing else.

from holdfast.signing.opened.transformers import from_pretrained
model = from_pretrained("AutoModelForCausalLM", "llama/", trust="author.pub")
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from holdfast._extras import extra
from holdfast.errors import InvalidConfig, RecordMissing, UnknownName
from holdfast.signing.opened.model import Policy, open_verified
from holdfast.signing.opened.sealed import sealed_folder
from holdfast.signing.trusts import Threshold, TrustSources

# what the library reads of a folder; no pickles, and no Python
_SUFFIXES = {".safetensors", ".json", ".txt", ".model", ".jinja", ".tiktoken", ".spm", ".bpe", ".vocab"}
_ADAPTER = "adapter_config.json"  # makes the library fetch a base model from elsewhere
_OURS = {
    "trust_remote_code": False,
    "local_files_only": True,
}
_REFUSED = {"revision", "code_revision", "subfolder", "cache_dir", "force_download", "token", "proxies", "gguf_file",
            "state_dict", "adapter_kwargs", "from_tf", "from_flax", "custom_generate", "use_kernels"}  # fmt: skip


def from_pretrained(
    kind: str | type,
    model: Path | str,
    *,
    trust: TrustSources | Threshold,
    signature: bytes | Path | str | None = None,
    policy: Policy | None = None,
    **options: Any,
) -> Any:
    """Return what ``kind.from_pretrained`` makes of a signed model: a network, a tokenizer, a configuration.

    Configuration, tokenizer and weights, sharded ones with their index too, are copied into sealed memory, verified
    there, and only then shown to the library, which may neither run code of the model nor use the network.

    Args:
        kind: a class of transformers, or its name (``"AutoModelForCausalLM"``, ``"AutoTokenizer"``).
        model: the signed folder.
        trust: who must have signed.
        signature: bundle; by default inside the folder.
        policy: as for :func:`open_verified`.
        options: for the library's own ``from_pretrained``, such as ``dtype`` or ``device_map``.

    Raises:
        VerificationError: see :func:`open_verified`.
        RecordMissing: weights are wanted and the signature names no safetensors file.
        InvalidConfig: an option that would bring in unsigned bytes or code.
        MissingExtra: transformers is not installed.
    """
    maker = _class(kind)
    _require_harmless(options)
    with open_verified(model, trust, signature=signature, policy=policy) as opened:
        names = opened.content.files
        if any(PurePosixPath(name).name == _ADAPTER for name in names):
            raise InvalidConfig("this is an adapter, whose base the library would fetch unverified")
        network = hasattr(maker, "from_config") or hasattr(maker, "forward")
        if network and not any(name.endswith(".safetensors") for name in names):
            raise RecordMissing("the signature names no safetensors file", hint="convert the weights and sign again")
        if network:
            options["use_safetensors"] = True
        with sealed_folder(opened, _is_read) as folder:
            return maker.from_pretrained(str(folder), **{**options, **_OURS})


def _require_harmless(options: Mapping[str, Any]) -> None:
    forbidden = sorted(_REFUSED & options.keys())
    if "/" in str(options.get("attn_implementation") or ""):  # a repository of kernels, which are code
        forbidden.append("attn_implementation")
    if forbidden:
        raise InvalidConfig(f"{forbidden[0]} would bring in what is not signed", hint="only signed files are read")
    if disputed := sorted(key for key, value in _OURS.items() if options.get(key, value) != value):
        raise InvalidConfig(f"{disputed[0]} must be {_OURS[disputed[0]]} for a verified model")


def _is_read(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in _SUFFIXES


def _class(kind: str | type) -> Any:
    if not isinstance(kind, str):
        return kind
    transformers = extra("transformers", name="hf", needs="transformers is not installed")
    if not hasattr(getattr(transformers, kind, None), "from_pretrained"):
        raise UnknownName(f"transformers has no {kind!r} to load a model with", hint='such as "AutoModelForCausalLM"')
    return getattr(transformers, kind)
