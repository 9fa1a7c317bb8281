"""The gateway's process and sockets: HTTP, gRPC, and an orderly end."""

from holdfast.services.gateway.serving import Listen, serve_gateway

__all__ = ["Listen", "serve_gateway"]
