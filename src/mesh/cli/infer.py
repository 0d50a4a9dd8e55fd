"""``mesh infer``: one question to one model, with the time that it took."""

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from mesh.cli import samples, words
from mesh.cli.client import Mesh, address_option, ask
from mesh.cli.inspect import unknown_model, unknown_vmodel
from mesh.cli.samples import Sample
from mesh.cli.screen import show_json
from mesh.cli.tensors import InputError, Tensor, label_of, outputs_of, request_from_json, tensors_to_json
from mesh.protos import admin_pb2, inference_pb2, peer_pb2

_SERVING = (peer_pb2.COPY_STATE_LOADED, peer_pb2.COPY_STATE_SIZING)
#: Elements of an output that are printed for people.
SHOWN_ELEMENTS = 20


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model said.

    Attributes:
        outputs: of the last request.
        seconds: what each request took, as the client sees it.
        cold: whether no copy was loaded before the first; None where that is not known.
        sample: what was asked, where it was a sample.
    """

    outputs: list[Tensor]
    seconds: list[float]
    cold: bool | None
    sample: Sample | None

    @property
    def label(self) -> str | None:
        """The label that the outputs stand for, where the sample tells the labels."""
        return label_of(self.outputs, self.sample.labels) if self.sample else None


@click.command()
@click.argument("model")
@click.option("--input", "given", metavar="JSON|FILE|-", help="The input; `-` reads it from standard input.")
@click.option(
    "--sample",
    type=click.IntRange(min=0),
    default=0,
    help="Which input of the model's sample.json.  [default: 0]",
)
@click.option("--repeat", type=click.IntRange(min=1), default=1, help="Ask so many times.  [default: 1]")
@click.option("--vmodel", is_flag=True, help="MODEL is the id of a vmodel.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=120.0,
    show_default=True,
    metavar="SECONDS",
    help="Deadline of each request; a model may have to be loaded first.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@address_option
def infer(
    *,
    model: str,
    given: str | None,
    sample: int,
    repeat: int,
    vmodel: bool,
    timeout: float,
    as_json: bool,
    address: str,
) -> None:
    """Ask MODEL by the Open Inference Protocol, loading it where it is not loaded.

    The input is a list of numbers, such as '[[5.1, 3.5, 1.4]]', for a model that takes one tensor, or a request
    in JSON, such as '{"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 3], "data": [5.1, 3.5,
    1.4]}]}'. Without --input, a sample.json that lies beside the model's data is asked; the example models have
    one.
    """

    async def question(mesh: Mesh) -> Answer:
        described = None if vmodel else await mesh.model(model)
        if described is None and not vmodel:
            raise unknown_model(model)
        if given is None:
            if vmodel and (described := await mesh.active_model(model)) is None:
                raise unknown_vmodel(model)
            chosen = _sample_of(model, described, sample)
            asked = request_from_json(model, {"inputs": chosen.inputs})
        else:
            chosen = None
            asked = await _request(mesh, model, _read(given), vmodel=vmodel, timeout_s=timeout)
        return await _ask(mesh, model, asked, chosen, repeat=repeat, vmodel=vmodel, timeout_s=timeout)

    try:
        answer = ask(address, question)
    except InputError as error:
        raise click.ClickException(str(error)) from None
    if as_json:
        show_json(_as_json(model, answer))
    else:
        click.echo("\n".join(answer_lines(model, answer)))


def answer_lines(model_id: str, answer: Answer) -> list[str]:
    """What people read: the answer first, then how long it took."""
    lines = []
    sample, label = answer.sample, answer.label
    if sample and label is not None:
        verdict = "" if sample.truth is None else f"  (true label: {sample.truth})"
        lines += [sample.question] if sample.question else []
        lines.append(f"{model_id} says: {label}{verdict}")
    else:
        lines.append(f"{model_id} says:")
        lines += [
            f"  {tensor.name} {tensor.datatype}{list(tensor.shape)}: {_shortened(tensor)}"
            for tensor in answer.outputs
        ]
    for index, seconds in enumerate(answer.seconds):
        if index == 0 and answer.cold:
            note = "cold: the model was loaded for this request"
        elif index == 0 and answer.cold is None:
            note = "first request"
        else:
            note = "warm"
        lines.append(f"  {words.latency(seconds):>8}  {note}")
    return lines


async def _request(
    mesh: Mesh, model_id: str, value: Any, *, vmodel: bool, timeout_s: float
) -> inference_pb2.ModelInferRequest:
    """Makes the request; a list becomes the tensor that the model says it takes."""
    if isinstance(value, list) and (
        takes := await mesh.only_input(model_id, vmodel=vmodel, timeout_s=timeout_s)
    ):
        return request_from_json(model_id, value, name=takes.name, datatype=takes.datatype)
    return request_from_json(model_id, value)


async def _ask(
    mesh: Mesh,
    model_id: str,
    request: inference_pb2.ModelInferRequest,
    sample: Sample | None,
    *,
    repeat: int,
    vmodel: bool,
    timeout_s: float,
) -> Answer:
    described = None if vmodel else await mesh.model(model_id)
    cold = None if described is None else all(copy.state not in _SERVING for copy in described.copies)
    response = inference_pb2.ModelInferResponse()
    seconds = []
    for _ in range(repeat):
        started = time.perf_counter()
        response = await mesh.infer(model_id, request, timeout_s=timeout_s, vmodel=vmodel)
        seconds.append(time.perf_counter() - started)
    return Answer(outputs_of(response), seconds, cold, sample)


def _sample_of(model_id: str, described: admin_pb2.Model | None, index: int) -> Sample:
    path = described.path if described else ""
    found = samples.beside(path)
    if found is None:
        where = (
            f"no {samples.FILE_NAME} beside {path}"
            if path
            else f"{model_id} has no path to look for samples in"
        )
        raise InputError(f"{where}: give the input, for example --input '[[5.1, 3.5, 1.4]]'")
    return samples.read(found, index)


def _read(given: str) -> Any:
    try:
        if given.lstrip().startswith(("{", "[")):
            return json.loads(given)
        if given == "-":
            return json.load(sys.stdin)
        return json.loads(Path(given).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"--input: {error}") from None
    except ValueError as error:
        raise InputError(f"--input is not JSON: {error}") from None


def _shortened(tensor: Tensor) -> str:
    elements = ", ".join(
        f"{element:.6g}" if isinstance(element, float) else str(element)
        for element in tensor.data[:SHOWN_ELEMENTS]
    )
    left = len(tensor.data) - SHOWN_ELEMENTS
    return f"{elements}, and {left} more" if left > 0 else elements


def _as_json(model_id: str, answer: Answer) -> dict[str, Any]:
    return {
        "model_id": model_id,
        "label": answer.label,
        "truth": answer.sample.truth if answer.sample else None,
        "outputs": tensors_to_json(answer.outputs),
        "seconds": answer.seconds,
        "cold": answer.cold,
    }
