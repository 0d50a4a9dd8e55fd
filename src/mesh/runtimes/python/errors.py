"""What is told of an exception of user code."""

import grpc

from mesh.runtimes.interface import RuntimeFailure
from mesh.runtimes.python.model import InvalidInput


def failure_of(error: Exception) -> RuntimeFailure:
    """Finds the code and text under which an exception goes to the caller."""
    match error:
        case RuntimeFailure():
            return error
        case InvalidInput():
            return RuntimeFailure(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        case MemoryError():
            return RuntimeFailure(
                grpc.StatusCode.RESOURCE_EXHAUSTED, f"out of memory: {error}".removesuffix(": ")
            )
    failure = RuntimeFailure(grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {error}".removesuffix(": "))
    failure.__cause__ = error
    return failure
