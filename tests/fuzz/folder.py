"""A folder whose files are those of a mapping, rewritten only where they differ from last time."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from pathlib import Path

from .damage import Files

_MEMORY = Path("/dev/shm")  # a disk would be worn for nothing


class Folder:
    """A folder for as long as this process lives, in memory where there is such a place."""

    def __init__(self, base: Path | None = None) -> None:
        fallback = _MEMORY if _MEMORY.is_dir() else None
        self.path = Path(tempfile.mkdtemp(prefix="holdfast-fuzz-", dir=base or fallback))
        atexit.register(shutil.rmtree, self.path, ignore_errors=True)
        self._files: Files = {}

    def hold(self, files: Files) -> Path:
        """Make the folder hold exactly ``files`` and return it."""
        for name in self._files.keys() - files.keys():
            (self.path / name).unlink()
            for above in (self.path / name).relative_to(self.path).parents:
                if above.parts and not any((self.path / above).iterdir()):
                    (self.path / above).rmdir()
        for name, data in files.items():
            if self._files.get(name) != data:
                (self.path / name).parent.mkdir(parents=True, exist_ok=True)
                (self.path / name).write_bytes(data)
        self._files = dict(files)
        return self.path
