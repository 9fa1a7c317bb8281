"""Models in OCI registries: files as layers, signatures as referrers, nothing visible before it is verified."""

from holdfast.distribution.pull import Pulled, pull
from holdfast.distribution.push import Pushed, push

__all__ = ["Pulled", "Pushed", "pull", "push"]
