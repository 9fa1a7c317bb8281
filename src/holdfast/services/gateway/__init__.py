"""The gateway's process and sockets: HTTP, gRPC, attested sessions, and an orderly end."""

from holdfast.services.gateway.front import forwarding
from holdfast.services.gateway.serving import Listen, Listening, serve_gateway

__all__ = ["Listen", "Listening", "forwarding", "serve_gateway"]
