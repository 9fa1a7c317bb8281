"""Experiments as TOML files."""

from __future__ import annotations

import tomllib
from pathlib import Path

from holdfast._files import read_bytes
from holdfast.errors import InvalidConfig
from holdfast.training.experiments.decoding import decoded
from holdfast.training.experiments.experiment import Experiment

_LONGEST = 1 << 20  # bytes


def read_experiment(path: Path | str) -> Experiment:
    """Read an experiment.

    Raises:
        UnreadableArtifact: no such file, or one too long to be an experiment.
        InvalidConfig: not TOML; a key that is unknown, missing or of the wrong type; a value out of range.
        UnknownName: a format or a recipe that does not exist.
    """
    data = read_bytes(path, "experiment", limit=_LONGEST)
    try:
        table = tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidConfig(f"{path} is not TOML: {error}") from error
    return decoded(Experiment, table, str(path))
