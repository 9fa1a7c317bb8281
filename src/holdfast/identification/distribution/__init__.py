"""HSPI-LD, done right: platforms from the bits of unknown inputs, judged on inputs, runs and machines held out."""

from holdfast.identification.distribution.baselines import Baselines
from holdfast.identification.distribution.classifiers import (
    Classifier,
    MultiLayerPerceptron,
    OneVsOneSVM,
    classifiers,
)
from holdfast.identification.distribution.corpus import load_recordings, record, save_recordings
from holdfast.identification.distribution.evaluation import Evaluation, evaluate, judge
from holdfast.identification.distribution.examples import Examples
from holdfast.identification.distribution.features import float_bits
from holdfast.identification.distribution.fingerprint import LogitDistribution
from holdfast.identification.distribution.matching import match_runs
from holdfast.identification.distribution.recordings import Recording, as_classes, merged
from holdfast.identification.distribution.scores import Score, score
from holdfast.identification.distribution.split import Fold, grouped_folds, require_no_leakage

__all__ = [
    "Baselines",
    "Classifier",
    "Evaluation",
    "Examples",
    "Fold",
    "LogitDistribution",
    "MultiLayerPerceptron",
    "OneVsOneSVM",
    "Recording",
    "Score",
    "as_classes",
    "classifiers",
    "evaluate",
    "float_bits",
    "grouped_folds",
    "judge",
    "load_recordings",
    "match_runs",
    "merged",
    "record",
    "require_no_leakage",
    "save_recordings",
    "score",
]
