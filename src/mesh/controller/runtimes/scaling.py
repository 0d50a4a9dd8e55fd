"""How many pods a runtime is to have."""

from dataclasses import dataclass

from mesh.controller.runtimes.autoscaling import Autoscaling
from mesh.controller.runtimes.runtime import Runtime


@dataclass(frozen=True, slots=True)
class Live:
    """A Deployment as it is.

    Attributes:
        replicas: that are asked for.
        unused_since_s: since when no model needs it, seconds since the epoch; None where one does, or nobody knows.
    """

    replicas: int
    unused_since_s: int | None = None


@dataclass(frozen=True, slots=True)
class Scale:
    """What a Deployment is to be.

    Attributes:
        replicas: to be asked for.
        autoscaled: whether an autoscaler changes that number from now on.
        unused_since_s: to be remembered with the Deployment.
        again_after_s: when to decide anew; None to wait for the next event.
        why: for the log and for Events.
    """

    replicas: int
    autoscaled: bool
    unused_since_s: int | None
    again_after_s: float | None
    why: str


def plan_scale(
    runtime: Runtime,
    autoscaling: Autoscaling | None,
    *,
    needed: bool,
    live: Live | None,
    pods_per_runtime: int,
    grace_s: int | None,
    now_s: int,
) -> Scale:
    """Decides on the pods of a runtime.

    A runtime that no model needs goes to zero after a time of grace, which a restarted controller does not forget:
    since when it is unused is kept with the Deployment. One that was never needed gets no pods.

    Args:
        runtime: one that the mesh runs.
        autoscaling: that its annotations ask for.
        needed: whether a model can be served by it.
        live: the Deployment; None where there is none.
        pods_per_runtime: where the runtime does not say.
        grace_s: None where runtimes without models keep their pods.
        now_s: seconds since the epoch.
    """
    full = pods_per_runtime if runtime.replicas is None else runtime.replicas
    if autoscaling is not None:
        full = autoscaling.least if live is None or live.replicas == 0 else live.replicas
    if needed or grace_s is None:
        why = "models need it" if needed else "runtimes without models keep their pods"
        return Scale(full, autoscaling is not None, None, None, why)
    if live is None or live.replicas == 0:
        return Scale(0, False, None, None, "no model needs it")
    since = now_s if live.unused_since_s is None else live.unused_since_s
    left = since + grace_s - now_s
    if left > 0:
        return Scale(
            full, autoscaling is not None, since, float(left), f"no model needs it: to zero in {left} s"
        )
    return Scale(0, False, None, None, f"no model has needed it for {now_s - since} s")
