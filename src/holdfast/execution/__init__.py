"""Platform, condition, observation, outcome: running models, breaking them on purpose, and counting with confidence."""

from holdfast.execution.campaign import campaign
from holdfast.execution.compare import Cause, Comparison, Outcome, compare
from holdfast.execution.condition import Fault, Flips, Population, faults
from holdfast.execution.executors import Executor, build_executor, executors
from holdfast.execution.fault_files import read_fault_list, write_fault_list
from holdfast.execution.fault_list import FaultList, ListedFaults, ListedTrial
from holdfast.execution.generation import generate, inject_generation
from holdfast.execution.guarantee import Guarantee, guarantee, mean_above, published_slack, split_slack
from holdfast.execution.injection import inject
from holdfast.execution.language import (
    Reading,
    continue_greedily,
    language_robustness,
    language_sensitivity,
    perplexity,
)
from holdfast.execution.outcomes import by_cause, by_distance, recovered
from holdfast.execution.outcomes_table import read_rows, write_rows
from holdfast.execution.over_chips import RobustError
from holdfast.execution.over_text import LanguageRobustness, edit_distance
from holdfast.execution.pairs import ChipPairs, pair_chips
from holdfast.execution.plan import describe_fault
from holdfast.execution.planner import MEASURES
from holdfast.execution.platform import Platform, describe_platform
from holdfast.execution.reliability import Reliability, poisson_interval, reliability, reliability_of, zero_event_bound
from holdfast.execution.replay import Replay, fault_list, replay
from holdfast.execution.report import CampaignReport
from holdfast.execution.report_pairs import Paired, paired
from holdfast.execution.robustness import accuracy, robust_error
from holdfast.execution.row import Row
from holdfast.execution.run import Progress, Trace, predict, run
from holdfast.execution.sensitivity import Restricted, Sensitivity, groups, sensitivity
from holdfast.execution.sequences import BettingSequence, EmpiricalBernsteinSequence, anytime_interval
from holdfast.execution.statistics import Estimate, MeanEstimate, Proportion, mcnemar, quantile, trials_for, worst_mean
from holdfast.execution.structures import CrossSection, Structure, read_structures
from holdfast.execution.tasks import Task, tasks
from holdfast.execution.tasks_dense import Regression, Segmentation
from holdfast.execution.tasks_detection import Detection
from holdfast.execution.tasks_images import Classification
from holdfast.execution.tasks_language import Language
from holdfast.execution.training_faults import TrainingFault, inject_training
from holdfast.execution.vulnerability import Along, avf, pvf, vulnerability
from holdfast.execution.watchdog import Watchdog

__all__ = [
    "MEASURES",
    "Along",
    "BettingSequence",
    "CampaignReport",
    "Cause",
    "ChipPairs",
    "Classification",
    "Comparison",
    "CrossSection",
    "Detection",
    "EmpiricalBernsteinSequence",
    "Estimate",
    "Executor",
    "Fault",
    "FaultList",
    "Flips",
    "Guarantee",
    "Language",
    "LanguageRobustness",
    "ListedFaults",
    "ListedTrial",
    "MeanEstimate",
    "Outcome",
    "Paired",
    "Platform",
    "Population",
    "Progress",
    "Proportion",
    "Reading",
    "Regression",
    "Reliability",
    "Replay",
    "Restricted",
    "RobustError",
    "Row",
    "Segmentation",
    "Sensitivity",
    "Structure",
    "Task",
    "Trace",
    "TrainingFault",
    "Watchdog",
    "accuracy",
    "anytime_interval",
    "avf",
    "build_executor",
    "by_cause",
    "by_distance",
    "campaign",
    "compare",
    "continue_greedily",
    "describe_fault",
    "describe_platform",
    "edit_distance",
    "executors",
    "fault_list",
    "faults",
    "generate",
    "groups",
    "guarantee",
    "inject",
    "inject_generation",
    "inject_training",
    "language_robustness",
    "language_sensitivity",
    "mcnemar",
    "mean_above",
    "pair_chips",
    "paired",
    "perplexity",
    "poisson_interval",
    "predict",
    "published_slack",
    "pvf",
    "quantile",
    "read_fault_list",
    "read_rows",
    "read_structures",
    "recovered",
    "reliability",
    "reliability_of",
    "replay",
    "robust_error",
    "run",
    "sensitivity",
    "split_slack",
    "tasks",
    "trials_for",
    "vulnerability",
    "worst_mean",
    "write_fault_list",
    "write_rows",
    "zero_event_bound",
]
