"""Readers of datasets as streams of (key, fields), found by name; one file a format.

A name of :func:`holdfast.dataset` (``digits``, ``cifar10:ROOT``, ``mnist:ROOT``, ``folder:PATH``) is a source as well:
its samples have the fields ``image`` as stored, ``label`` and ``class``, and their places as keys.
"""

from holdfast.data.commitments.sources import arrow, files, hugging_face, mosaic, npz, webdataset  # noqa: F401  (they register)
from holdfast.data.commitments.sources.protocol import Source, open_source, sources

__all__ = ["Source", "open_source", "sources"]
