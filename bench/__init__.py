"""Measures the mesh beside its rivals: ``python -m bench.run`` for requests, ``bench.control`` for models."""
