"""The page of one fault campaign: where faults hurt, what protection bought, and how single faults travelled."""

from holdfast.reporting.campaign.arms import Arm, forest
from holdfast.reporting.campaign.heat import heat_map, vulnerability_against_cost
from holdfast.reporting.campaign.page import render_campaign
from holdfast.reporting.campaign.trace import trace_chart

__all__ = ["Arm", "forest", "heat_map", "render_campaign", "trace_chart", "vulnerability_against_cost"]
