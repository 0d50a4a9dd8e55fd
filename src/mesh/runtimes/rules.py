"""What answers of model servers mean, where their status codes do not say it."""

import grpc

LOST_MODEL_RULES: tuple[tuple[grpc.StatusCode, str, str], ...] = (
    (grpc.StatusCode.NOT_FOUND, "", ""),
    (grpc.StatusCode.UNAVAILABLE, "Request for unknown model", " is not found"),
    (grpc.StatusCode.UNAVAILABLE, "Request for unknown model", " has no available versions"),
    (grpc.StatusCode.INVALID_ARGUMENT, "Model ", " not found"),
    (grpc.StatusCode.INTERNAL, "Model not found: ", "ModelNotFoundException"),
)
"""Answers to an inference request by which a server says that it does not have the model: code, and prefix
and suffix of the message (empty: any).

The first is the rule, the next two are Triton's, then comes MLServer's; KServe ModelMesh knows the same. The last is
TorchServe's.
"""
