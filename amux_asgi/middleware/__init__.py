"""Middleware, each usable alone in front of any ASGI app; none imports another."""
