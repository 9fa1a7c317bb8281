"""How the two worlds talk: frames, the client that asks, and the processes that answer."""

from holdfast.shielding.transport.client import Client
from holdfast.shielding.transport.spawn import SpawnedWorker, dial
from holdfast.shielding.transport.wire import Connection, Frame, Kind

__all__ = ["Client", "Connection", "Frame", "Kind", "SpawnedWorker", "dial"]
