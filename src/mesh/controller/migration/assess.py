"""What of an installation of KServe ModelMesh works here as it is, what changes, and what is to be done."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from mesh.controller.configuration import Configuration, InvalidConfiguration, read_configuration
from mesh.controller.migration.installation import Installation, RegistryContents
from mesh.controller.predictors import (
    InvalidSpec,
    Predictor,
    is_for_the_mesh,
    model_id,
    read_inference_service,
    read_predictor,
)
from mesh.controller.runtimes import (
    InvalidAutoscaling,
    InvalidRuntime,
    check_runtime,
    read_autoscaling,
    read_runtime,
)

#: Types of storage that the puller knows without more packages.
_STORAGE_TYPES = {"s3", "gcs", "azure", "http", "pvc", "hf", "oci", "local"}
#: Says of a variable of the mesh's container why it has no effect; "" where it has.
Variables = Callable[[Mapping[str, str]], Iterator[str]]


class Verdict(StrEnum):
    """What a finding means for the move."""

    WORKS = "works"
    CHANGES = "changes"
    ACT = "act"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        subject: for example ``ServingRuntime triton``.
        verdict: whether somebody has to do something.
        message: what is so, and what to do.
    """

    subject: str
    verdict: Verdict
    message: str


def assess(installation: Installation, variables: Variables) -> list[Finding]:
    """Looks at everything that was read.

    Args:
        installation: as it was read.
        variables: tells which of the mesh's variables have no effect here, a message each.
    """
    configuration, findings = _configuration(installation, variables)
    return [
        *findings,
        *_runtimes(installation, configuration),
        *_storage(installation),
        *_predictors(installation),
        *_registry(installation),
    ]


def _configuration(installation: Installation, variables: Variables) -> tuple[Configuration, list[Finding]]:
    subject = "ConfigMap model-serving-config"
    # Images and resources in the defaults of an installation are its own containers'; those of the user count.
    own = {"modelMeshImage", "modelMeshResources", "storageHelperImage", "storageHelperResources"}
    defaults = {
        name: value for name, value in (installation.default_configuration or {}).items() if name not in own
    }
    try:
        configuration = read_configuration(defaults, installation.user_configuration or {})
    except InvalidConfiguration as problem:
        return read_configuration(), [Finding(subject, Verdict.ACT, str(problem))]
    findings = [Finding(subject, Verdict.CHANGES, warning) for warning in configuration.warnings]
    named = {str(name).lower() for name in installation.user_configuration or ()}
    if "modelmeshimage" in named:
        findings.append(
            Finding(
                subject, Verdict.ACT, "modelMeshImage names the Java image: name this mesh's, or leave it out"
            )
        )
    if configuration.tls.secret_name:
        findings.append(Finding(subject, Verdict.ACT, "tls: the mesh does not speak TLS on its own port yet"))
    findings += [
        Finding(f"{subject}, internalModelMeshEnvVars", Verdict.CHANGES, message)
        for message in variables(dict(configuration.environment))
    ]
    if not findings:
        told = (
            "not there: the defaults count"
            if installation.user_configuration is None
            else "every key has its effect"
        )
        findings.append(Finding(subject, Verdict.WORKS, told))
    return configuration, findings


def _runtimes(installation: Installation, configuration: Configuration) -> Iterator[Finding]:
    for resource in installation.runtimes:
        runtime = read_runtime(resource)
        subject = f"{runtime.kind} {runtime.name}"
        if not runtime.multi_model:
            continue
        try:
            check_runtime(runtime, configuration.built_in_server_types)
            read_autoscaling(runtime.annotations, replicas_set=runtime.replicas is not None)
        except (InvalidRuntime, InvalidAutoscaling) as problem:
            yield Finding(subject, Verdict.ACT, str(problem))
            continue
        if runtime.disabled:
            yield Finding(subject, Verdict.WORKS, "disabled, and stays so")
        elif runtime.adapter is not None:
            kind = runtime.adapter.server_type
            yield Finding(
                subject, Verdict.CHANGES, f"the adapter of {kind} and the puller run in the mesh's container"
            )
        elif runtime.uses_storage_helper:
            yield Finding(subject, Verdict.CHANGES, "the puller runs in the mesh's container")
        else:
            yield Finding(subject, Verdict.WORKS, "as it is")


def _storage(installation: Installation) -> Iterator[Finding]:
    subject = "Secret storage-config"
    entries = installation.storage_entries
    if entries is None:
        yield Finding(subject, Verdict.ACT, "not there, and pods wait for it: make it, if need be empty")
        return
    kinds: Counter[str] = Counter()
    for name, written in sorted(entries.items()):
        where = f"{subject}, entry {name}"
        try:
            entry = json.loads(written)
        except ValueError:
            entry = None
        if not isinstance(entry, dict):
            yield Finding(where, Verdict.ACT, "no JSON object: models that use it cannot be loaded")
        elif (kind := entry.get("type")) not in _STORAGE_TYPES:
            yield Finding(where, Verdict.ACT, f"type is {kind!r}: it needs a package that adds that type")
        else:
            kinds[str(kind)] += 1
    if kinds:
        told = ", ".join(f"{count} of type {kind}" for kind, count in sorted(kinds.items()))
        yield Finding(subject, Verdict.WORKS, f"{told}: as they are")


def _read_all(installation: Installation) -> Iterator[tuple[str, Predictor | InvalidSpec]]:
    for resource in installation.predictors:
        yield f"Predictor {resource['metadata']['name']}", _read(read_predictor, resource)
    for resource in installation.inference_services:
        if is_for_the_mesh(resource):
            yield f"InferenceService {resource['metadata']['name']}", _read(read_inference_service, resource)


def _read(
    reader: Callable[[Mapping[str, Any]], Predictor], resource: Mapping[str, Any]
) -> Predictor | InvalidSpec:
    try:
        return reader(resource)
    except InvalidSpec as problem:
        return problem


def _predictors(installation: Installation) -> Iterator[Finding]:
    good: Counter[str] = Counter()
    for subject, read in _read_all(installation):
        if isinstance(read, InvalidSpec):
            yield Finding(subject, Verdict.ACT, str(read))
            continue
        good[subject.partition(" ")[0]] += 1
        if read.gpu:
            yield Finding(subject, Verdict.CHANGES, f"gpu: {read.gpu} has no effect, as before")
    for kind, count in sorted(good.items()):
        yield Finding(f"{kind}s", Verdict.WORKS, f"{count}, as they are")


def _registry(installation: Installation) -> Iterator[Finding]:
    subject = "registry"
    found = installation.registry
    if found is None:
        yield Finding(subject, Verdict.ACT, f"not read: {installation.registry_problem}")
        return
    for key, why in sorted(found.unreadable.items()):
        yield Finding(f"{subject}, {key}", Verdict.ACT, why)
    yield Finding(
        subject, Verdict.WORKS, f"{len(found.models)} models and {len(found.vmodels)} vmodels are taken over"
    )
    yield from _loaded(installation, found)
    if found.instances:
        yield Finding(
            subject,
            Verdict.CHANGES,
            f"{len(found.instances)} instances are there now. Java instances and this mesh's cannot serve together: "
            "the Deployments are replaced as a whole, and models are loaded anew by the first requests",
        )


def _loaded(installation: Installation, found: RegistryContents) -> Iterator[Finding]:
    wanted = {
        read.name: (subject, model_id(read))
        for subject, read in _read_all(installation)
        if isinstance(read, Predictor)
    }
    moved = [
        subject
        for name, (subject, target) in wanted.items()
        if name in found.vmodels and found.vmodels[name].target != target
    ]
    for subject in sorted(moved):
        yield Finding(
            subject, Verdict.CHANGES, "its model gets another id here, and is loaded beside the old one first"
        )
    strays = sorted(found.vmodels.keys() - wanted.keys())
    if strays:
        told = ", ".join(strays[:5]) + (" and others" if len(strays) > 5 else "")
        yield Finding(
            "registry",
            Verdict.CHANGES,
            f"vmodels without a resource: {told}. Those that a resource owned are deleted",
        )
