"""The commit that a training's code stands at, asked of git only when the user wants it named."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from holdfast.errors import InvalidConfig, Unavailable
from holdfast.evidence.provenance import Resource

_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_SECONDS = 30


def commit_of(folder: Path | str) -> Resource:
    """Return the commit that ``folder`` stands at; its notes say whether files differ from it.

    Raises:
        InvalidConfig: the folder is in no repository, or it has no commit yet.
        Unavailable: git is not installed, or does not answer.
    """
    head = _git(folder, "rev-parse", "--verify", "HEAD").strip()
    if not _COMMIT.fullmatch(head):
        raise InvalidConfig(f"{folder} stands at no commit")
    changed = bool(_git(folder, "status", "--porcelain", "--untracked-files=no").strip())
    return Resource("code", {"gitCommit": head}, "code", notes={"changed": changed})


def _git(folder: Path | str, *arguments: str) -> str:
    program = shutil.which("git")
    if program is None:
        raise Unavailable("git is not installed", hint="leave out code=")
    try:
        call = [program, "-C", str(folder), *arguments]
        done = subprocess.run(call, capture_output=True, text=True, timeout=_SECONDS, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"git does not answer: {error}") from error
    if done.returncode:
        raise InvalidConfig(f"{folder} is in no git repository with a commit", hint="leave out code=")
    return done.stdout
