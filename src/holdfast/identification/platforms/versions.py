"""Versions of what computes, found without importing it."""

from __future__ import annotations

from importlib import metadata

_PACKAGES = {
    "torch": ("torch",),
    "numpy": ("numpy",),
    "onnxruntime": ("onnxruntime", "torch"),  # torch wrote the graph
    "openvino": ("openvino", "torch"),
}


def versions_of(runtime: str) -> dict[str, str]:
    """Return package to version of what a runtime computes with; a package that is not installed is ``absent``."""
    return {name: _version(name) for name in _PACKAGES.get(runtime, (runtime,))}


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "absent"
