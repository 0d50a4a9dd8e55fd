"""The validating webhook for runtimes."""

from mesh.controller.webhook.review import review
from mesh.controller.webhook.self_signed import SelfSigned
from mesh.controller.webhook.server import PATH, Webhook

__all__ = ["PATH", "SelfSigned", "Webhook", "review"]
