"""Where a model goes: filter, then score, then explain."""

from collections import Counter
from collections.abc import Collection, Sequence
from random import Random

from mesh.placement.decisions import Candidate
from mesh.placement.placements import InstanceFilter, Placement, PlacementPolicy, PlacementReason
from mesh.placement.ranking import RankedInstances
from mesh.placement.reservations import Pending, Reservations
from mesh.placement.search import Search
from mesh.placement.standing import Standing
from mesh.placement.view import InstanceView, PlacementRequest

_POLICY = PlacementPolicy()


def choose(
    ranked: RankedInstances,
    request: PlacementRequest,
    now_ms: int,
    random: Random,
    *,
    self_id: str = "",
    own: InstanceView | None = None,
    reservations: Reservations | None = None,
    filters: Sequence[InstanceFilter] = (),
    avoid: Collection[str] = (),
    policy: PlacementPolicy = _POLICY,
) -> Placement:
    """Chooses the instance that is to load a model. Adds no reservation: that is up to who carries it out.

    Instances with room go first, among them the ones with the fewest queued loads and then the fewest models;
    then full ones, the one whose oldest copy was used longest ago first. Those about as good as the best are
    a shortlist, from which the less laden of two drawn at random is taken: several choosers with about the same
    view would otherwise all take the same one.

    Before the shortlist is made three wishes are heard, as far as that does not mean to evict where others have
    room, or copies much younger: labels that the type prefers, a zone with few copies of the model, a host with
    few copies of it.

    Args:
        ranked: every live instance with what its record says.
        request: the model, and where it cannot go.
        now_ms: epoch milliseconds.
        random: draws from the shortlist.
        self_id: the instance that chooses; empty where it takes no models.
        own: what that one knows of itself, where ``ranked`` has only what its record says.
        reservations: placements not yet visible in the records.
        filters: further hard conditions.
        avoid: instances that are taken only where otherwise there would be none, or copies would be evicted.
        policy: figures of the choice.
    """
    search = Search(ranked, request, now_ms, _laden(ranked, own, reservations), filters, avoid, policy)
    if not search.found:
        return _nowhere(request, search, policy)
    chosen, how = _draw(search, self_id, request, now_ms, random, policy)
    candidates = tuple(search.explain(chosen)) if policy.explained else ()
    merits = chosen.merits(request.units, now_ms)
    return Placement(chosen.instance_id, PlacementReason.CHOSEN, how, candidates, merits)


def _laden(
    ranked: RankedInstances, own: InstanceView | None, reservations: Reservations | None
) -> dict[str, Standing]:
    """Instances of which more is known than their records say."""
    laden: dict[str, Standing] = {}
    if reservations is not None:
        for instance_id, pending in reservations.totals.items():
            if (standing := ranked.laden(instance_id, pending)) is not None:
                laden[instance_id] = standing
    if own is not None and own.instance_id in ranked.views:
        pending = reservations.pending(own.instance_id) if reservations is not None else Pending()
        laden[own.instance_id] = Standing(own, ranked.default_model_units, pending)
    return laden


def _draw(
    search: Search,
    self_id: str,
    request: PlacementRequest,
    now_ms: int,
    random: Random,
    policy: PlacementPolicy,
) -> tuple[Standing, str]:
    if request.balanced and (own := search.is_as_good(self_id)) is not None:
        return own, "the instance that was asked, and as good as the best"
    shortlist = search.shortlist()
    if len(shortlist) == 1:
        return shortlist[0], "the best"
    idle = _without_busy(shortlist, request.last_used_ms or now_ms, now_ms, policy)
    if len(idle) == 1:
        return idle[0], f"the least busy among the best {len(shortlist)}"
    drawn = random.sample(idle, 2)
    return min(
        drawn, key=lambda one: (one.backlog, one.models, -one.free)
    ), f"drawn from the best {len(idle)}"


#: How many times as busy as the least busy one an instance may be, by how long ago the model was last used, in
#: milliseconds. A further copy for a busy model has a use in the future. Those of KServe ModelMesh.
_BUSY_FACTORS = ((0, 1.1), (5_000, 1.5), (720_000, 3.0), (5 * 86_400_000, 4.0))


def _without_busy(
    shortlist: list[Standing], used_ms: int, now_ms: int, policy: PlacementPolicy
) -> list[Standing]:
    """The busier the model is going to be, the less it belongs on an instance that is busy itself."""
    age_ms = now_ms - used_ms
    factor = next((factor for below_ms, factor in _BUSY_FACTORS if age_ms < below_ms), None)
    if factor is None:
        return shortlist
    least = min([standing.view.requests_per_minute for standing in shortlist])
    most = factor * max(policy.busy_rpm, least)
    return [standing for standing in shortlist if standing.view.requests_per_minute <= most]


#: How a refusal begins where no instance has the labels that a model's type requires, as in KServe ModelMesh; the
#: controller tells by it what is missing.
NO_HOME = "There are no running instances that meet the label requirements of type "

#: Which refusal to tell where there are several kinds: the one that a user can do most about.
_TELLING = (
    PlacementReason.NO_ROOM,
    PlacementReason.TOO_LARGE,
    PlacementReason.NOT_ELIGIBLE,
    PlacementReason.ALL_EXCLUDED,
)


def _nowhere(request: PlacementRequest, search: Search, policy: PlacementPolicy) -> Placement:
    refused = list(search.refusals())
    kinds = {kind for _, _, kind in refused}
    reason = next((kind for kind in _TELLING if kind in kinds), PlacementReason.NO_INSTANCES)
    if refused and not search.any_eligible:
        required = ", ".join(sorted(search.required))
        message = f"{NO_HOME}{request.model_type}: [{required}]"
    elif not refused:
        message = f"No instance is there for model {request.model_id}"
    else:
        whys = Counter(why for _, why, _ in refused)
        told = "; ".join(f"{count} x {why}" for why, count in whys.most_common(5))
        message = f"None of {len(refused)} instances can take model {request.model_id}: {told}"
    candidates = tuple(Candidate(name, refused=why) for name, why, _ in refused[: policy.explained])
    return Placement(None, reason, message, candidates)
