"""What lies beside a model and is no part of it: its signatures, and evidence that is verified by itself.

The only place that knows these names. For a folder M they are ``M/model.sig`` and so on, for a single file F ``F.sig``,
``F.sig2`` and ``F.obao``.
"""

from __future__ import annotations

import re
from pathlib import Path

SIGNATURE, MANIFEST, OUTBOARDS, LINEAGE = "model.sig", "model.sig2", "model.outboard", "lineage"
PASSPORT = "passport.bundle.json"  # of an assessment's folder
GIT_NAMES = (".git", ".gitattributes", ".github", ".gitignore")  # OMS leaves them out, too
_EVIDENCE = re.compile(rf"model\.sig2|{OUTBOARDS}/.+\.obao|{LINEAGE}/[^/]+\.bundle\.json", re.DOTALL)
_OF_A_FILE = re.compile(r"[^/]+\.(sig2?|obao)", re.DOTALL)


def is_canonical(name: object) -> bool:
    """Return whether ``name`` is the one spelling of a relative path, in UTF-8 and without ``.``, ``..`` and NUL."""
    if not isinstance(name, str) or "\0" in name or {"", ".", ".."} & set(name.split("/")):
        return False
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can spell
        return False
    return True


def is_evidence(name: str) -> bool:
    """Return whether ``name``, a path in a model's folder, is evidence that is verified by itself."""
    return _EVIDENCE.fullmatch(name) is not None


def is_beside(name: str) -> bool:
    """Return whether ``name``, a path in a model's folder, is evidence or the signature that other tools read."""
    return name == SIGNATURE or is_evidence(name)


def is_evidence_file(model: Path, name: str) -> bool:
    """Return whether ``name`` is evidence in ``model``; a folder of such a name is none, and what it holds counts."""
    return is_evidence(name) and _is_no_other_thing(model / name)


def is_beside_file(model: Path, name: str) -> bool:
    """Return whether ``name`` is evidence or the signature in ``model``, and no folder, pipe or device."""
    return is_beside(name) and _is_no_other_thing(model / name)


def _is_no_other_thing(path: Path) -> bool:
    return path.is_file() or not path.exists()


def is_beside_any(name: str) -> bool:
    """Return whether ``name`` is beside a model of any kind: a folder, or one of the files at its top."""
    return is_beside(name) or _OF_A_FILE.fullmatch(name) is not None


def default_signature(model: Path | str) -> Path:
    """Return where the OpenSSF signature of a folder or file lies by default."""
    return _place(Path(model), SIGNATURE, ".sig")


def default_manifest(model: Path | str) -> Path:
    """Return where the signed manifest of a folder or file lies by default."""
    return _place(Path(model), MANIFEST, ".sig2")


def outboard_path(model: Path | str, name: str) -> Path:
    """Return where the outboard of the file ``name`` of a model lies."""
    return _place(Path(model), f"{OUTBOARDS}/{name}.obao", ".obao")


def _place(model: Path, inside: str, suffix: str) -> Path:
    return model / inside if model.is_dir() else model.with_name(f"{model.name}{suffix}")
