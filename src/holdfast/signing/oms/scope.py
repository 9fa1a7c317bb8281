"""What a signature covers and what it leaves out, on both sides.

Left out are git's own names at the top, the signature, our own evidence (each file of it verified by itself), and what
the signer or the verifier names. A signer's wish is honoured only for files that nothing loads: weights, code and
settings are never left out unless the verifier agrees.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from holdfast.errors import SignatureInvalid, UnreadableArtifact
from holdfast.evidence.beside import GIT_NAMES, LINEAGE, is_evidence, is_evidence_file
from holdfast.signing.oms.names import OWN_NAMES, covers, folders_above, require_ignorable
from holdfast.signing.oms.statement import Listing
from holdfast.signing.oms.tree import Entry, Skip, walk

_WEIGHTS = """safetensors bin pt pth th ptl pte ckpt gguf ggml onnx onnx_data pb xml h5 hdf5 keras tflite npy npz pkl
pickle joblib msgpack model mlmodel engine plan trt ot params pdparams pdiparams pdopt pdmodel mnn rknn
mlir mar nemo task dat data index arrow parquet"""
_CODE = """py pyc pyd pyx pyi so dll dylib exe sh bash bat ps1 js mjs wasm jar class rb lua pl ipynb c cc cpp cu cuh h
hpp rs go zip tar gz tgz bz2 xz zst 7z whl egg"""
_SETTINGS = "json jsonl yaml yml toml cfg ini conf jinja jinja2 tmpl vocab merges bpe codes tiktoken spm"
_SUFFIXES = {f".{word}" for word in f"{_WEIGHTS} {_CODE} {_SETTINGS}".split()}
_NAMES = {"vocab.txt", "merges.txt", "requirements.txt", "modelfile"}
_HEADS = (b"\x7fELF", b"MZ", b"#!", b"PK\x03\x04", b"GGUF", b"\x89HDF", b"\x93NUMPY", b"\x1f\x8b", b"\xcf\xfa\xed\xfe",
          b"\xca\xfe\xba\xbe", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")  # fmt: skip


def left_out(model: Path, signature: Path, ignore: Iterable[str], *, git: bool) -> frozenset[str]:
    """Return the paths that a new signature of ``model`` leaves out; nothing for a single file.

    Raises:
        InvalidConfig: see :func:`require_ignorable`.
    """
    chosen = require_ignorable(ignore)
    if not model.is_dir():
        return frozenset()
    return chosen | {*(GIT_NAMES if git else ()), *_own_names(model), *_inside(model, signature)}


def _own_names(model: Path) -> set[str]:
    """Return what to write into a signature so that other tools pass over our evidence, and over nothing else.

    Steps that nobody signed are files of the model, and signed like any: beside them each bundle is left out by name.
    """
    names = [f"{LINEAGE}/{name}" for name in _listed(model / LINEAGE)]
    if all(map(is_evidence, names)):
        return {*OWN_NAMES}
    return {*OWN_NAMES, *filter(is_evidence, names)} - {LINEAGE}


def _listed(folder: Path) -> list[str]:
    if folder.is_symlink() or not folder.is_dir():
        return []
    try:
        return os.listdir(folder)
    except OSError as error:
        raise UnreadableArtifact(f"cannot read {folder}: {error.strerror or error}") from error


def _inside(model: Path, signature: Path) -> list[str]:
    place, root = signature.parent.resolve() / signature.name, model.resolve()  # the signature itself may be a link
    return [place.relative_to(root).as_posix()] if place.is_relative_to(root) and place != root else []


def signing_skip(model: Path, ignored: frozenset[str]) -> Skip:
    """Return which paths to leave out when signing; of our own evidence only what is evidence."""
    return lambda name: is_evidence_file(model, name) or covers(ignored - {*OWN_NAMES}, name)


def require_own(names: Iterable[str], ignored: frozenset[str]) -> None:
    """Raise :class:`UnreadableArtifact` if a file lies where others will ignore it: among evidence."""
    own = ignored & {*OWN_NAMES}
    if stray := sorted(name for name in names if covers(own, name)):
        hint = f"{', '.join(sorted(own))} are for evidence that is verified by itself; move the file"
        raise UnreadableArtifact(f"no signature would cover {stray[0]}", hint=hint)


def wishes_of(ignored: Iterable[str]) -> set[str]:
    """Return what a signature leaves out besides evidence: what its signer chose, git's names and itself."""
    return {name for name in ignored if name not in OWN_NAMES and not is_evidence(name)}


def verifying_skip(
    model: Path, signature: Path, ignore: Iterable[str], listing: Listing, *, links: bool
) -> tuple[Skip, list[str]]:
    """Return which paths to leave out when verifying, and the files among them that only the signer wished to.

    What is signed is never left out. ``links`` tells whether what is left out may hold links to files.

    Raises:
        SignatureInvalid: the signature leaves out weights, code or settings, and the caller did not agree.
    """
    agreed = require_ignorable(ignore) | {*_inside(model, signature), *(listing.how.ignore & {*GIT_NAMES})}
    wishes = frozenset(path for path in wishes_of(listing.how.ignore) if not covers(agreed, path))
    hidden = _refuse_loadable(model, wishes, agreed, links)
    needed = listing.files | {folder for name in listing.files for folder in folders_above(name)}
    ignored = agreed | wishes
    return (lambda name: name not in needed and (is_evidence_file(model, name) or covers(ignored, name))), hidden


def _refuse_loadable(model: Path, wishes: frozenset[str], agreed: frozenset[str], links: bool) -> list[str]:
    if not wishes or not model.is_dir():
        return []
    leading = {folder for path in wishes for folder in folders_above(path)}

    def skip(name: str) -> bool:
        return covers(agreed, name) or not (name in leading or covers(wishes, name))

    found = []
    for entry in walk(model, skip, links=links):
        if not covers(wishes, entry.name):
            continue
        if is_loadable(entry):
            hint = f"agree to that with --ignore {entry.name}, if you mean to"
            raise SignatureInvalid(f"the signature leaves {entry.name} unsigned, which a loader may read", hint=hint)
        found.append(entry.name)
    return found


def is_loadable(entry: Entry) -> bool:
    """Return whether a file looks like weights, code or settings: by its suffix, its first bytes, or as a program."""
    path = PurePosixPath(entry.name.lower())
    if path.suffix in _SUFFIXES or path.name in _NAMES:
        return True
    with entry.open() as file:
        head = file.read(16)
        return head.startswith(_HEADS) or head[8:9] == b"{" or _is_program(file.fileno())


def _is_program(descriptor: int) -> bool:
    return bool(stat.S_IMODE(os.fstat(descriptor).st_mode) & 0o111)
