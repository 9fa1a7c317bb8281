"""Running, comparing to a golden output, counting with confidence, resuming, scaling out."""

from holdfast.execution.campaign import campaign, describe_fault
from holdfast.execution.compare import Comparison, Outcome, compare
from holdfast.execution.condition import Fault, Flips, Population, faults
from holdfast.execution.executors import executor_from, executors
from holdfast.execution.injection import applied, inject
from holdfast.execution.plan import Trial
from holdfast.execution.platform import Platform, describe_platform
from holdfast.execution.report import CampaignReport, paired
from holdfast.execution.robustness import RobustError, accuracy, robust_error
from holdfast.execution.run import Progress, Trace, predict, run
from holdfast.execution.statistics import MeanEstimate, Proportion, mcnemar, trials_for
from holdfast.execution.store import Row, Store

__all__ = [
    "CampaignReport",
    "Comparison",
    "Fault",
    "Flips",
    "MeanEstimate",
    "Outcome",
    "Platform",
    "Population",
    "Progress",
    "Proportion",
    "RobustError",
    "Row",
    "Store",
    "Trace",
    "Trial",
    "accuracy",
    "applied",
    "campaign",
    "compare",
    "describe_fault",
    "describe_platform",
    "executor_from",
    "executors",
    "faults",
    "inject",
    "mcnemar",
    "paired",
    "predict",
    "robust_error",
    "run",
    "trials_for",
]
