"""The library that comes with the package: CPU stacks that the project recorded, on nets anybody can make again."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from holdfast.errors import Unavailable
from holdfast.identification.library.files import DESCRIPTION
from holdfast.identification.library.store import Library


def shipped() -> Library:
    """Return the recorded classes of CPU stacks, made by ``holdfast platforms build``.

    Raises:
        Unavailable: this installation of the package lacks its data files.
    """
    folder = Path(str(files("holdfast.identification.library") / "recorded"))
    if not (folder / DESCRIPTION).exists():
        raise Unavailable("the package came without its library of platforms", hint="holdfast platforms build -o LIB")
    return Library.load(folder)
