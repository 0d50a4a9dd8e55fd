"""``sample.json``: example inputs that lie beside a model, with the answers that are right."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mesh.cli.tensors import InputError

FILE_NAME = "sample.json"


@dataclass(frozen=True, slots=True)
class Sample:
    """One example input.

    Attributes:
        inputs: tensors, as the REST form of the Open Inference Protocol has them.
        question: what the model answers, for people.
        labels: of the classes, by number; empty where the model is no classifier.
        truth: the right label; None where it is not known.
    """

    inputs: list[Any]
    question: str = ""
    labels: tuple[str, ...] = ()
    truth: str | None = None


def beside(model_path: str) -> Path | None:
    """Finds the samples of a model whose data is on this machine.

    Looks for ``sample.json`` in the model's folder, which is ``model_path`` or where that file lies, and for
    ``NAME.sample.json`` beside ``NAME.onnx``.
    """
    path = Path(model_path)
    if not model_path or not path.is_absolute():
        return None
    candidates = [path / FILE_NAME, path.with_suffix(".sample.json"), path.parent / FILE_NAME]
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def read(path: Path, index: int) -> Sample:
    """Reads sample ``index`` of a file, counted from 0.

    Raises:
        InputError: the file cannot be read or is not of the form, or has no such sample.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        samples = content["samples"]
        chosen = samples[index]
        return Sample(
            inputs=chosen["inputs"],
            question=content.get("question", ""),
            labels=tuple(content.get("labels", ())),
            truth=chosen.get("truth"),
        )
    except IndexError:
        raise InputError(f"{path} has samples 0 to {len(samples) - 1}, there is no {index}") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is not a file of samples: {error!r}") from None
