"""A real server over real weights: llama.cpp's, through llama-cpp-python, serving the tiny LLaMA."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from holdfast.data.tokenizer import read_tokenizer

HEADS, LAYERS = 4, 4
_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


WHERE = "llama-cpp-python[server] is not installed; HOLDFAST_LLAMA_PYTHON may name a Python that has it"


def interpreter() -> str | None:
    """A Python that has llama-cpp-python: the one that HOLDFAST_LLAMA_PYTHON names, or this one; None without."""
    found = importlib.util.find_spec("llama_cpp") is not None
    return os.environ.get("HOLDFAST_LLAMA_PYTHON") or (sys.executable if found else None)


def write_gguf(folder: Path, path: Path) -> Path:
    """Convert the tiny LLaMA to llama.cpp's container, in fp32."""
    import gguf

    tensors, words = load_file(folder / "model.safetensors"), read_tokenizer(folder / "tok512.bin")
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(64)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(172)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(16)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_file_type(0)
    _add_words(writer, gguf, words.pieces, words.scores)
    writer.add_tensor("token_embd.weight", tensors["model.embed_tokens.weight"])
    writer.add_tensor("output_norm.weight", tensors["model.norm.weight"])
    for layer in range(LAYERS):
        for theirs, ours in _NAMES.items():
            values = tensors[f"model.layers.{layer}.{theirs}.weight"]
            if ours in ("attn_q", "attn_k"):
                values = _interleaved(values)
            writer.add_tensor(f"blk.{layer}.{ours}.weight", np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_words(writer, gguf, pieces: tuple[bytes, ...], scores: tuple[float, ...]) -> None:
    kinds = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL]
    kinds += [gguf.TokenType.BYTE] * 256 + [gguf.TokenType.NORMAL] * (len(pieces) - 259)
    texts = [b"<unk>", b"<s>", b"</s>", *(b"<0x%02X>" % byte for byte in range(256))]
    texts += [piece.replace(b" ", "\u2581".encode()) for piece in pieces[259:]]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(texts)
    writer.add_token_scores(list(scores))
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_space_prefix(True)


def _interleaved(values: np.ndarray) -> np.ndarray:
    """Interleave the two halves of each head: llama.cpp rotates neighbours, Hugging Face rotates halves."""
    rows, columns = values.shape
    return values.reshape(HEADS, 2, rows // HEADS // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def llama_server(gguf: Path, *, logits_all: bool = True, threads: int = 1) -> Iterator[str]:
    """Serve a GGUF file; yield the address with /v1."""
    port, python = free_port(), interpreter()
    if python is None:
        raise RuntimeError(WHERE)
    call = [python, "-m", "llama_cpp.server", "--model", str(gguf), "--model_alias", "tiny", "--port", str(port)]
    call += ["--n_ctx", "128", "--n_threads", str(threads), "--logits_all", str(logits_all), "--verbose", "False"]
    call += ["--type_k", "0", "--type_v", "0"]  # keys and values in fp32, where fp16 would differ by 1e-3
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    process = subprocess.Popen(call, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(process, f"http://127.0.0.1:{port}/v1/models")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()
        process.wait()


def wait_for(process: subprocess.Popen, url: str) -> None:
    for _ in range(600):
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with {process.returncode}")
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError("the server did not come up")
