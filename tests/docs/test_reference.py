"""The generated reference is the one of this source."""

from __future__ import annotations

import runpy
from pathlib import Path


def test_the_reference_is_up_to_date(repository: Path):
    generator = runpy.run_path(str(repository / "docs" / "reference" / "generate.py"))
    written = (repository / "docs" / "reference" / "README.md").read_text()
    assert written == generator["page"](), "run python docs/reference/generate.py"
