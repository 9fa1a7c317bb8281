"""How the two worlds talk: frames, what carries them, the client that asks, and the processes that answer."""

from holdfast.shielding.transport.client import Client
from holdfast.shielding.transport.remote import MutualTls
from holdfast.shielding.transport.shared import SharedConnection
from holdfast.shielding.transport.spawn import SpawnedWorker, dial
from holdfast.shielding.transport.stream import Connection
from holdfast.shielding.transport.wire import Channel, Frame, Kind

__all__ = ["Channel", "Client", "Connection", "Frame", "Kind", "MutualTls", "SharedConnection", "SpawnedWorker", "dial"]
