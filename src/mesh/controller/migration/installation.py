"""An installation of KServe ModelMesh in one namespace, as it was read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mesh.registry import ModelRecord, VModelRecord


@dataclass(frozen=True, slots=True)
class RegistryContents:
    """What etcd has of the namespace's mesh.

    Attributes:
        models: records by id.
        vmodels: records by id.
        unreadable: keys whose values are no records, and why.
        instances: ids of the instances that are there now.
    """

    models: Mapping[str, ModelRecord]
    vmodels: Mapping[str, VModelRecord]
    unreadable: Mapping[str, str]
    instances: Sequence[str]


@dataclass(frozen=True, slots=True)
class Installation:
    """What was found.

    Attributes:
        namespace: with the models.
        predictors: resources.
        inference_services: resources, all of the namespace.
        runtimes: resources that count in the namespace, of both kinds.
        deployments: of runtimes.
        user_configuration: of the ConfigMap; None where there is none.
        default_configuration: likewise.
        storage_entries: of the storage Secret, decoded; None where that is not there.
        registry: None where it was not read.
        registry_problem: why it was not.
    """

    namespace: str
    predictors: Sequence[Mapping[str, Any]] = ()
    inference_services: Sequence[Mapping[str, Any]] = ()
    runtimes: Sequence[Mapping[str, Any]] = ()
    deployments: Sequence[Mapping[str, Any]] = ()
    user_configuration: Mapping[str, Any] | None = None
    default_configuration: Mapping[str, Any] | None = None
    storage_entries: Mapping[str, bytes] | None = field(default=None, repr=False)
    registry: RegistryContents | None = None
    registry_problem: str = ""
