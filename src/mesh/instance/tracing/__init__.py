"""Traces of one instance: what its data plane and its loads tell of sampled requests, sent to a collector."""

from mesh.instance.tracing.tracing import Tracing, make_tracing

__all__ = ["Tracing", "make_tracing"]
