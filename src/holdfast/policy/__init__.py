"""Deployment policies: which evidence a model must carry, as TOML; total and explained."""

from holdfast.policy.evaluate import check, judge
from holdfast.policy.model import Policy, Requirement
from holdfast.policy.read import read_policy
from holdfast.policy.summary import sign_summary, verify_summary
from holdfast.policy.verdict import Judgement, State, Verdict

__all__ = [
    "Judgement",
    "Policy",
    "Requirement",
    "State",
    "Verdict",
    "check",
    "judge",
    "read_policy",
    "sign_summary",
    "verify_summary",
]
