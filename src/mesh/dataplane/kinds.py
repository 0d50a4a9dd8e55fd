"""The words that the data plane and Python exchange."""

from typing import Literal

EndpointKind = Literal["runtime", "peer"]
"""Somewhere to send a request: the local runtime, or a peer's data plane."""

AskReason = Literal["no_route", "not_here", "lost", "unreachable", "broken", "unavailable", "exhausted"]
"""Why the data plane asks.

- ``no_route``: the table has no usable copy.
- ``not_here``: the peer ``endpoint`` answered that it has no copy.
- ``lost``: the local runtime answered that it does not know the model (a status rule matched).
- ``unreachable``: no connection to ``endpoint``; the request was certainly not processed.
- ``broken``: the connection to ``endpoint`` ended before a response head; it may have been processed.
- ``unavailable`` / ``exhausted``: a status rule matched the answer of ``endpoint``; the answer is held back.
"""
