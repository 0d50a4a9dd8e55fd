"""The validating webhook for runtimes."""

from mesh.controller.webhook.review import review

__all__ = ["review"]
