"""Experiments of papers as data: what to train, and what was published for it."""

from holdfast.training.experiments.arms import run_arm
from holdfast.training.experiments.experiment import Arm, Data, Experiment, Published, Scale
from holdfast.training.experiments.reading import read_experiment
from holdfast.training.experiments.running import run_experiment
from holdfast.training.experiments.table import comparison, markdown, rows

__all__ = [
    "Arm",
    "Data",
    "Experiment",
    "Published",
    "Scale",
    "comparison",
    "markdown",
    "read_experiment",
    "rows",
    "run_arm",
    "run_experiment",
]
