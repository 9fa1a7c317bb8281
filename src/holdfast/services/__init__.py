"""Processes and sockets, without logic of their own."""
