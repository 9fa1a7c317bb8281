"""Platforms that one machine can be: settings that change which kernels run, each a real software stack."""

from holdfast.identification.platforms.catalogue import LISTED_BY, LOCAL_PLATFORMS
from holdfast.identification.platforms.run import collect_platforms, trace_on
from holdfast.identification.platforms.setting import LocalPlatform

__all__ = ["LISTED_BY", "LOCAL_PLATFORMS", "LocalPlatform", "collect_platforms", "trace_on"]
