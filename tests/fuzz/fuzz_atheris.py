"""Lets coverage guide the damage: the bundle parser and the containers' headers under atheris, where it is installed.

Run ``python -m tests.fuzz.fuzz_atheris --only bundle -max_total_time=300`` in the root of the checkout; what begins
with one dash goes to libFuzzer. A crash, a forgery, or a parser that takes longer than ``-timeout`` seconds ends the
run with a file that shows it. Targets: bundle, statement, manifest, safetensors, gguf, npz. Prints what was covered.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from random import Random

from holdfast.errors import HoldfastError
from holdfast.signing import generate_key
from holdfast.signing.manifests import write_manifest

from .damage import mutate_binary, mutate_safetensors
from .mutations import mutate, mutate_structure
from .samples import gguf_sample, model_sample, npz_sample, safetensors_sample

Read = Callable[[bytes], object]
Damage = Callable[[Random, bytes], bytes]
NAMES = ("bundle", "statement", "manifest", "safetensors", "gguf", "npz")


def _bundle(folder: Path) -> bytes:
    for name, data in model_sample().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return write_manifest(folder, generate_key("ed25519")).read_bytes()


def reader(name: str) -> tuple[Read, Damage, bytes]:
    """Return what reads the bytes of a target, what changes them so that they stay well-formed, and good ones."""
    from holdfast.evidence.model_manifest import ModelManifest
    from holdfast.evidence.statement import Statement
    from holdfast.signing.envelope import read_envelope, write_envelope

    from .targets_containers import against_numpy, against_safetensors, parsed

    with tempfile.TemporaryDirectory() as folder:
        bundle = _bundle(Path(folder))
    payload = read_envelope(bundle).payload

    def whole(data: bytes) -> None:
        envelope = read_envelope(data)
        if read_envelope(write_envelope(envelope)) != envelope:
            raise AssertionError("a bundle changes when it is written and read")

    def manifest(data: bytes) -> None:
        found = ModelManifest.from_statement(Statement.from_bytes(data))
        if found.to_statement().to_bytes() != Statement.from_bytes(data).to_bytes():
            raise AssertionError("a manifest has two statements")

    return {
        "bundle": (whole, mutate, bundle),
        "statement": (lambda data: Statement.from_bytes(data).to_bytes(), mutate_structure, payload),
        "manifest": (manifest, mutate_structure, payload),
        "safetensors": (against_safetensors, mutate_safetensors, safetensors_sample()),
        "gguf": (lambda data: parsed("m.gguf", data), mutate_binary, gguf_sample()),
        "npz": (against_numpy, mutate_binary, npz_sample()),
    }[name]


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--only", choices=NAMES, default="bundle")
    arguments, rest = parser.parse_known_args()
    if importlib.util.find_spec("atheris") is None:
        print("atheris is not installed: nothing was fuzzed (pip install atheris)", file=sys.stderr)
        return 3
    import atheris

    with atheris.instrument_imports(include=["holdfast.evidence", "holdfast.signing.envelope", "json"]):
        for loaded in [item for item in sys.modules if item.startswith(("holdfast.evidence", "holdfast.signing"))]:
            del sys.modules[loaded]  # loaded before it could be watched
        read, damage, seed = reader(arguments.only)

    def once(data: bytes) -> None:
        try:
            read(data)
        except HoldfastError:
            return

    def change(data: bytes, most: int, number: int) -> bytes:
        random = Random(number)
        if random.random() < 0.5:
            return bytes(atheris.Mutate(data, most))
        try:
            return damage(random, data)[:most]
        except (ValueError, LookupError, TypeError, AttributeError):  # too broken already to be changed by meaning
            return bytes(atheris.Mutate(data, most))

    with tempfile.TemporaryDirectory() as corpus:
        (Path(corpus) / "good").write_bytes(seed)
        atheris.Setup([sys.argv[0], "-max_len=16384", *rest, corpus], once, custom_mutator=change)
        atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
