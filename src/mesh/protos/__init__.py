"""The wire contracts and the modules generated from them.

Each ``NAME.proto`` has a ``NAME_pb2`` (messages) and, where it has a service, a ``NAME_pb2_grpc``
(stubs and servicers). ``python tools/generate_protos.py`` makes them anew; CI checks that they match.
"""

from mesh.protos._pool import POOL

__all__ = ["POOL"]
