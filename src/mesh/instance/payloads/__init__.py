"""Payloads of requests on their way from the data plane to those who process them."""

from mesh.instance.payloads.control import KEYS, Payloads
from mesh.instance.payloads.records import Processors
from mesh.instance.payloads.service import SERVICE, PayloadService

__all__ = ["KEYS", "SERVICE", "PayloadService", "Payloads", "Processors"]
