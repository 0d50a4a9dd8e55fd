"""Calls for trying out a monitor: docs/monitoring-models.md tells what to do with them.

python examples/drift.py reference digits.npz    writes what the example models of digits were trained with
python examples/drift.py send                    asks about digits as they were
python examples/drift.py send --dim              asks about digits from a scanner whose lamp grows weak
"""

import argparse

import grpc
import numpy as np
from sklearn.datasets import load_digits

from mesh.protos import inference_pb2, inference_pb2_grpc


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    reference = commands.add_parser("reference")
    reference.add_argument("path")
    reference.set_defaults(run=write_reference)
    send = commands.add_parser("send")
    send.add_argument("--model", default="digits-forest")
    send.add_argument("--address", default="127.0.0.1:8033")
    send.add_argument("--rows", type=int, default=600)
    send.add_argument("--dim", action="store_true")
    send.set_defaults(run=ask)
    arguments = parser.parse_args()
    arguments.run(arguments)


def digits():
    rows, _ = load_digits(return_X_y=True)
    return rows.astype("float32")


def write_reference(arguments):
    # One array for each input tensor, under its name.
    np.savez(arguments.path, input=digits())


def ask(arguments):
    random = np.random.default_rng()
    rows = digits()
    rows = rows[random.integers(0, len(rows), arguments.rows)]
    if arguments.dim:
        rows *= 0.6
    with grpc.insecure_channel(arguments.address) as channel:
        service = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        for row in rows:
            request = inference_pb2.ModelInferRequest(raw_input_contents=[row.tobytes()])
            request.inputs.add(name="input", datatype="FP32", shape=[1, 64])
            service.ModelInfer(request, metadata=[("mm-model-id", arguments.model)], timeout=60)
    print(f"asked {arguments.model} about {len(rows)} digits")


if __name__ == "__main__":
    main()
