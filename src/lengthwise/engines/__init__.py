"""Ways to run a model: our own, and others through one protocol."""

from lengthwise.engines.base import Answer, Engine, Request

__all__ = ["Answer", "Engine", "Request"]
