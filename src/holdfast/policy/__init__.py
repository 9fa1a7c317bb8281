"""Deployment policies: which evidence a model must carry, as TOML; total and explained."""

from holdfast.policy.evaluate import Satisfied, check
from holdfast.policy.model import Policy, Requirement, read_policy

__all__ = ["Policy", "Requirement", "Satisfied", "check", "read_policy"]
